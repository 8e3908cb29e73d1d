"""Frames: contiguous ranges of one origin's changes, columnar, hash-chained.

A frame is parsed once, by columns, and its bytes are stored and forwarded unchanged. Its hash is
SHA-256 over the hash of the origin's frame before it and its body: checksum and chain at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import chain as chained
from itertools import repeat
from typing import NamedTuple, Protocol, TypeVar

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
from mesh.replication.core.entities import (
    DELETE,
    UPSERT,
    Change,
    Changed,
    EntityKey,
    EntityState,
    received,
)
from mesh.replication.core.errors import ChainBroken, FormatUnknown, LinkFault
from mesh.replication.core.receipts import Receipt, from_proto, to_proto
from mesh.replication.core.shapes import Packed, Shape, interned, places
from mesh.replication.core.wire import numbers

T = TypeVar("T")

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


class Columns(NamedTuple):
    """The changes of a frame, entry i of each column belonging to change i."""

    entities: Sequence[EntityKey]
    generations: Sequence[int]
    kinds: Sequence[int]
    clocks: Sequence[int]
    actors: Sequence[str]
    traces: Sequence[str]
    request_ids: Sequence[str]
    writes_left: Sequence[int]
    shapes: Sequence[Shape]
    contents: Sequence[bytes]

    def changes(self, origin: Origin) -> list[Change]:
        """The same, change by change."""
        stamps = map(cells.Stamp, self.clocks, repeat(origin.region), repeat(origin.incarnation))
        return list(
            map(
                Change,
                self.entities,
                self.generations,
                self.kinds,
                stamps,
                self.actors,
                self.traces,
                self.request_ids,
                self.writes_left,
                self.shapes,
                self.contents,
            )
        )


class Frame:
    """A frame with its changes; of a received one also the state that each stands for."""

    __slots__ = (
        "_changes",
        "body",
        "columns",
        "contract_digest",
        "count",
        "dependencies",
        "dependency_clocks",
        "first",
        "hash",
        "last",
        "newest",
        "origin",
        "receipts",
        "states",
    )

    def __init__(
        self,
        body: bytes,
        hash: bytes,
        origin: Origin,
        first: int,
        columns: Columns,
        dependencies: Vector,
        contract_digest: bytes,
        dependency_clocks: Vector | None = None,
        receipts: Sequence[Receipt] = (),
        changes: Sequence[Change] | None = None,
    ) -> None:
        self.body = body
        self.hash = hash
        self.origin = origin
        self.first = first
        self.count = len(columns.entities)
        self.last = first + self.count - 1
        self.columns = columns
        self.states: Sequence[EntityState] = ()
        self.dependencies = dependencies
        self.dependency_clocks = dependency_clocks or {}
        self.receipts = receipts
        self.newest = max(columns.clocks)
        """The highest clock in it."""
        self.contract_digest = contract_digest
        self._changes = changes

    @property
    def changes(self) -> Sequence[Change]:
        """Its changes one by one: made when first asked for."""
        if self._changes is None:
            self._changes = self.columns.changes(self.origin)
        return self._changes

    @property
    def rules(self) -> frozenset[int]:
        """The merge rules of its cells."""
        return frozenset(rule for shape in set(self.columns.shapes) for _, rule in shape)

    @property
    def trace_parents(self) -> tuple[str, ...]:
        """The traces under which its changes were made."""
        return tuple(trace for trace in dict.fromkeys(self.columns.traces) if trace)


class StoredFrame(NamedTuple):
    """A frame as it lies in the local journal; `place` grows in the order of commits."""

    place: int
    origin: Origin
    first: int
    last: int
    body: bytes
    hash: bytes


class FrameLog(Protocol):
    """Where what was committed is read."""

    def after(self, origin: Origin, sequence: int, most_bytes: int) -> list[StoredFrame]:
        """An origin's frames that end beyond a sequence number, in order; at least one if any."""


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
    entities, generations, kinds, stamps, actors, traces, request_ids, left, shapes, contents = zip(
        *changes, strict=True
    )
    columns = Columns(
        entities,
        generations,
        kinds,
        [stamp[0] for stamp in stamps],
        actors,
        traces,
        request_ids,
        left,
        shapes,
        contents,
    )
    types, keys = zip(*entities, strict=True)
    strings = {
        text: at
        for at, text in enumerate({"": 0, **dict.fromkeys((*types, *actors, *request_ids))})
    }
    trace_at = {trace: at for at, trace in enumerate({"": 0, **dict.fromkeys(traces)})}
    shape_at = {shape: at for at, shape in enumerate(dict.fromkeys(shapes))}
    body = frame_pb2.FrameBody(
        format=FORMAT,
        origin=frame_pb2.Origin(region=origin.region, incarnation=origin.incarnation),
        first_sequence=first,
        dependencies=vector_to_proto(seen),
        dependency_clocks=seen_clocks.values(),
        contract_digest=contract_digest,
        strings=strings,
        trace_parents=trace_at,
        clocks=columns.clocks,
        types=map(strings.__getitem__, types),
        keys=keys,
        generations=generations,
        kinds=kinds,
        actors=map(strings.__getitem__, actors),
        traces=map(trace_at.__getitem__, traces),
        writes_left=left,
        request_ids=map(strings.__getitem__, request_ids),
        change_shapes=map(shape_at.__getitem__, shapes),
        shapes=map(_shape_to_proto, shape_at),
        contents=contents,
    )
    body.receipts.extend(to_proto(at, receipt) for at, receipt in receipts)
    data = body.SerializeToString(deterministic=True)
    return Frame(
        data,
        chain(previous, data),
        origin,
        first,
        columns,
        seen,
        contract_digest,
        seen_clocks,
        changes=changes,
    )


def _places(columns: Iterable[Iterable[T]]) -> dict[T, int]:
    """The distinct values of some columns, each with its place among them."""
    return {value: at for at, value in enumerate(dict.fromkeys(chained.from_iterable(columns)))}


def _shape_to_proto(shape: Shape) -> frame_pb2.Shape:
    return frame_pb2.Shape(paths=[path for path, _ in shape], rules=[rule for _, rule in shape])


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
    dependencies = vector_from_proto(message.dependencies)
    try:
        shapes = [_shape_from_proto(shape) for shape in message.shapes]
        clocks = dict(zip(dependencies, message.dependency_clocks, strict=True))
        columns = _columns(message, shapes)
        receipts = from_proto(message.receipts, columns)
    except (ValueError, IndexError):
        raise ChainBroken(f"{where} is damaged: its columns do not match") from None
    except LinkFault as fault:
        raise type(fault)(f"{where} {fault}") from None
    if not set(columns.kinds) <= {UPSERT, DELETE}:
        raise FormatUnknown(f"{where} holds a kind of change that this version does not know")
    if not columns.entities or not message.first_sequence or columns.writes_left[-1]:
        raise ChainBroken(f"{where} is damaged: it does not hold whole writes")
    frame = Frame(
        body,
        hash,
        origin,
        message.first_sequence,
        columns,
        dependencies,
        message.contract_digest,
        clocks,
        receipts,
    )
    largest = max(
        origin.incarnation, message.first_sequence, frame.newest, max(columns.generations)
    )
    if largest >= _TOO_LARGE:
        raise ChainBroken(f"{where} is damaged: a number in it is beyond all reason")
    return frame


def _shape_from_proto(message: frame_pb2.Shape) -> Shape:
    for rule in message.rules:
        if rule not in cells.RULES:
            raise FormatUnknown(f"uses merge rule {rule}, unknown to this version")
    if not all(map(_is_path, message.paths)):
        raise ChainBroken("is damaged: it names a field that cannot be")
    shape = tuple(zip(message.paths, message.rules, strict=True))
    if len(set(shape)) < len(shape):
        raise ChainBroken("is damaged: it names a field twice")
    return interned(shape)


@lru_cache(maxsize=4096)
def _is_path(path: bytes) -> bool:
    """Whether a path can be rendered: once stored, one that cannot would stop every reader."""
    try:
        found = numbers(path)
    except ChainBroken:
        return False
    return 0 < len(found) <= _DEEPEST and all(0 < number <= _LARGEST_FIELD for number in found)


def _columns(message: frame_pb2.FrameBody, shapes: Sequence[Shape]) -> Columns:
    strings = list(message.strings)
    traces = list(message.trace_parents)
    columns = Columns(
        list(zip(map(strings.__getitem__, message.types), message.keys, strict=True)),
        list(message.generations),
        list(message.kinds),
        list(message.clocks),
        list(map(strings.__getitem__, message.actors)),
        list(map(traces.__getitem__, message.traces)),
        list(map(strings.__getitem__, message.request_ids)),
        list(message.writes_left),
        list(map(shapes.__getitem__, message.change_shapes)),
        list(message.contents),
    )
    if len(set(map(len, columns))) != 1:
        raise ValueError("columns of different lengths")
    return columns


def states(frame: Frame) -> Sequence[EntityState]:
    """The state that each change of a received frame stands for. Raises `ChainBroken`."""
    columns = frame.columns
    plain = all(places(shape) is not None for shape in set(columns.shapes))
    if not plain or DELETE in columns.kinds:
        return [received(change) for change in frame.changes]
    try:
        frame_pb2.FrameContents.FromString(frame.body)
    except DecodeError:
        raise ChainBroken("a cell is damaged: its content is no message") from None
    region, incarnation = frame.origin
    stamps = map(cells.Stamp, columns.clocks, repeat(region), repeat(incarnation))
    changed = list(
        map(Changed, columns.clocks, repeat(region), repeat(incarnation), columns.actors)
    )
    packed = map(Packed, columns.shapes, changed, columns.contents)
    return list(map(EntityState, columns.generations, repeat(False), stamps, changed, packed))
