"""Frames: contiguous ranges of one origin's changes, columnar, hash-chained.

A frame is parsed once, by columns, and its bytes are stored and forwarded unchanged. Its hash is
SHA-256 over the hash of the origin's frame before it and its body: checksum and chain at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

from google.protobuf.message import DecodeError
from isthmus.replication.v1 import frame_pb2

from mesh.replication.core import cells
from mesh.replication.core.clocks import (
    Origin,
    Vector,
    origin_from_proto,
    vector_from_proto,
    vector_to_proto,
)
from mesh.replication.core.entities import DELETE, UPSERT, Change, EntityState
from mesh.replication.core.errors import ChainBroken, FormatUnknown
from mesh.replication.core.receipts import Receipt, from_proto, to_proto
from mesh.replication.core.wire import numbers

FORMAT = 1
FORMATS = (FORMAT,)
"""The frame formats that this version reads."""

GENESIS = bytes(32)
"""What an origin's first frame is chained to."""

MAX_CHANGES = 4096
MAX_BYTES = 1 << 20
"""A frame is closed at these sizes; one write that is larger alone is refused at `MAX_WRITE`."""

MAX_WRITE = 3 << 20
"""What fits a gRPC message with room to spare."""

_TOO_LARGE = 1 << 62
_LARGEST_FIELD = (1 << 29) - 1  # Protobuf's own limits, here and below
_DEEPEST = 64


class Frame:
    """A frame with its changes.

    Of a received one also the state that each change stands for, and the receipts in it.
    """

    __slots__ = (
        "body",
        "changes",
        "contract_digest",
        "dependencies",
        "dependency_clocks",
        "first",
        "hash",
        "last",
        "origin",
        "receipts",
        "rules",
        "states",
    )

    def __init__(
        self,
        body: bytes,
        hash: bytes,
        origin: Origin,
        first: int,
        changes: Sequence[Change],
        dependencies: Vector,
        contract_digest: bytes,
        dependency_clocks: Vector | None = None,
        receipts: Sequence[Receipt] = (),
        rules: Iterable[int] | None = None,
    ) -> None:
        self.body = body
        self.hash = hash
        self.origin = origin
        self.first = first
        self.last = first + len(changes) - 1
        self.changes = changes
        self.states: Sequence[EntityState] = ()
        self.dependencies = dependencies
        self.dependency_clocks = dependency_clocks or {}
        self.receipts = receipts
        self.rules = frozenset(
            (cell[1] for change in changes for cell in change.cells) if rules is None else rules
        )
        self.contract_digest = contract_digest

    @property
    def newest(self) -> int:
        """The highest clock in it."""
        return max(change.stamp.clock for change in self.changes)


class StoredFrame(NamedTuple):
    """A frame as it lies in the local journal; `place` grows in the order of commits."""

    place: int
    origin: Origin
    first: int
    last: int
    body: bytes
    hash: bytes


def chain(previous: bytes, body: bytes) -> bytes:
    """The hash of a frame that follows `previous`."""
    return hashlib.sha256(previous + body).digest()


def build(
    origin: Origin,
    first: int,
    previous: bytes,
    changes: Sequence[Change],
    dependencies: Mapping[Origin, int],
    contract_digest: bytes,
    clocks: Mapping[Origin, int] | None = None,
    receipts: Iterable[tuple[int, Receipt]] = (),
) -> Frame:
    """Closes a frame over changes of one origin that saw the same `dependencies`.

    `clocks` are those of the dependencies' last changes; each receipt comes with the index of the
    last change of its write.
    """
    seen = {o: n for o, n in dependencies.items() if o != origin}
    seen_clocks = {o: (clocks or {}).get(o, 0) for o in sorted(seen)}
    strings: dict[str, int] = {"": 0}
    traces: dict[str, int] = {"": 0}
    body = frame_pb2.FrameBody(
        format=FORMAT,
        origin=frame_pb2.Origin(region=origin.region, incarnation=origin.incarnation),
        first_sequence=first,
        dependencies=vector_to_proto(seen),
        dependency_clocks=seen_clocks.values(),
        contract_digest=contract_digest,
        clocks=[change.stamp.clock for change in changes],
        types=[strings.setdefault(change.entity[0], len(strings)) for change in changes],
        keys=[change.entity[1] for change in changes],
        generations=[change.generation for change in changes],
        kinds=[change.kind for change in changes],  # type: ignore[misc] # plain numbers of the enum
        actors=[strings.setdefault(change.actor, len(strings)) for change in changes],
        traces=[traces.setdefault(change.trace_parent, len(traces)) for change in changes],
        writes_left=[change.writes_left for change in changes],
        request_ids=[strings.setdefault(change.request_id, len(strings)) for change in changes],
        cell_counts=[len(change.cells) for change in changes],
        cell_paths=[cell[0] for change in changes for cell in change.cells],
        cell_rules=[cell[1] for change in changes for cell in change.cells],
        cell_deltas=[cell[2] for change in changes for cell in change.cells],
    )
    body.receipts.extend(to_proto(at, receipt) for at, receipt in receipts)
    body.strings.extend(strings)
    body.trace_parents.extend(traces)
    data = body.SerializeToString(deterministic=True)
    return Frame(
        data, chain(previous, data), origin, first, changes, seen, contract_digest, seen_clocks
    )


def parse(body: bytes, hash: bytes) -> Frame:
    """Reads a frame's columns; its chain is checked where it is received.

    Raises `FormatUnknown` for a format or merge rule of a newer version, and `ChainBroken` if the
    columns contradict each other.
    """
    try:
        message = frame_pb2.FrameBody.FromString(body)
    except DecodeError as error:
        raise ChainBroken(f"a frame is damaged: {error}") from None
    origin = origin_from_proto(message.origin)
    where = f"the frame of {origin} at {message.first_sequence}"
    if message.format != FORMAT:
        raise FormatUnknown(f"{where} has format {message.format}; this version reads {FORMAT}")
    rules = set(message.cell_rules)
    for number in rules:
        if number not in cells.RULES:
            raise FormatUnknown(f"{where} uses merge rule {number}, unknown to this version")
    for path in set(message.cell_paths):
        if not _is_path(path):
            raise ChainBroken(f"{where} is damaged: it names a field that cannot be")
    kinds = list(message.kinds)
    if not set(kinds) <= {UPSERT, DELETE}:
        raise FormatUnknown(f"{where} holds a kind of change that this version does not know")
    dependencies = vector_from_proto(message.dependencies)
    try:
        clocks = dict(zip(dependencies, message.dependency_clocks, strict=True))
        changes = _changes(message, origin)
        receipts = from_proto(message.receipts, changes)
    except (ValueError, IndexError):
        raise ChainBroken(f"{where} is damaged: its columns do not match") from None
    largest = max(origin.incarnation, message.first_sequence, *message.clocks, *message.generations)
    if largest >= _TOO_LARGE:
        raise ChainBroken(f"{where} is damaged: a number in it is beyond all reason")
    if not changes or not message.first_sequence or changes[-1].writes_left:
        raise ChainBroken(f"{where} is damaged: it does not hold whole writes")
    return Frame(
        body,
        hash,
        origin,
        message.first_sequence,
        changes,
        dependencies,
        message.contract_digest,
        clocks,
        receipts,
        rules,
    )


@lru_cache(maxsize=4096)
def _is_path(path: bytes) -> bool:
    """Whether a path can be rendered: once stored, one that cannot would stop every reader."""
    try:
        found = numbers(path)
    except ChainBroken:
        return False
    return 0 < len(found) <= _DEEPEST and all(0 < number <= _LARGEST_FIELD for number in found)


def _changes(message: frame_pb2.FrameBody, origin: Origin) -> list[Change]:
    strings = list(message.strings)
    traces = list(message.trace_parents)
    all_cells = list(zip(message.cell_paths, message.cell_rules, message.cell_deltas, strict=True))
    counts = list(message.cell_counts)
    if sum(counts) != len(all_cells):
        raise ValueError("cells")
    region, incarnation = origin
    stamp = cells.Stamp
    return [
        Change(
            (strings[type_at], key),
            generation,
            kind,
            stamp(clock, region, incarnation),
            strings[actor],
            traces[trace],
            strings[request_id],
            left,
            tuple(all_cells[end - count : end]),
        )
        for (
            clock,
            type_at,
            key,
            generation,
            kind,
            actor,
            trace,
            left,
            request_id,
            count,
            end,
        ) in zip(
            message.clocks,
            message.types,
            message.keys,
            message.generations,
            message.kinds,
            message.actors,
            message.traces,
            message.writes_left,
            message.request_ids,
            counts,
            accumulate(counts),
            strict=True,
        )
    ]
