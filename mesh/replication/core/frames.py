"""Frames: contiguous ranges of one origin's changes, columnar, hash-chained.

A frame is parsed once, by columns, and its bytes are stored and forwarded unchanged. Its hash is
SHA-256 over the hash of the origin's frame before it and its body: checksum and chain at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import chain as chained
from operator import itemgetter
from typing import NamedTuple, Protocol, TypeVar

from google.protobuf.message import DecodeError
from isthmus.replication.v1 import frame_pb2

from mesh.replication.core.clocks import (
    Origin,
    Vector,
    origin_from_proto,
    vector_from_proto,
    vector_to_proto,
)
from mesh.replication.core.columns import Columns, of_changes
from mesh.replication.core.entities import (
    DELETE,
    Change,
    EntityKey,
    EntityState,
    received,
)
from mesh.replication.core.errors import ChainBroken, FormatUnknown, HistoryTruncated, LinkFault
from mesh.replication.core.parked import KNOWN, Known, beside, parked_shape
from mesh.replication.core.receipts import Receipt, ReceiptKey, from_proto, to_proto
from mesh.replication.core.shapes import Shape, interned, places
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


class Frame:
    """A frame with its changes.

    Of a received one `plain` says that all are of plain shapes; if not, `states` are what they
    stand for. `signature` is its origin's, empty if it has none; see
    `isthmus.replication.v1.Frame`.
    """

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
        "parked",
        "plain",
        "receipts",
        "signature",
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
    ) -> None:
        self.body = body
        self.hash = hash
        self.origin = origin
        self.first = first
        self.count = len(columns.entities)
        self.last = first + self.count - 1
        self.columns = columns
        self.plain = False
        self.states: Sequence[EntityState] = ()
        self.parked: frozenset[EntityKey] = frozenset()
        """The entities in which something of it waits for a version that can read it."""
        self.dependencies = dependencies
        self.dependency_clocks = dependency_clocks or {}
        self.receipts = receipts
        self.newest = max(columns.clocks)
        """The highest clock in it."""
        self.contract_digest = contract_digest
        self._changes: Sequence[Change] | None = None
        self.signature = b""

    @property
    def changes(self) -> Sequence[Change]:
        """Its changes one by one: made when first asked for."""
        if self._changes is None:
            self._changes = self.columns.changes(self.origin)
        return self._changes

    def change(self, at: int) -> Change:
        """One of its changes."""
        return self.changes[at] if self._changes else self.columns.change(at, self.origin)

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
    signature: bytes = b""


class FrameLog(Protocol):
    """Where what was committed is read."""

    def after(self, origin: Origin, sequence: int, most_bytes: int) -> list[StoredFrame]:
        """An origin's frames that end beyond a sequence number, in order; at least one if any."""

    def receipts(self, after: ReceiptKey, most_bytes: int, until_ms: int) -> list[Receipt]:
        """The kept results of operations after a key, by key; at least one if there is any.

        None is of a later time than `until_ms`, since 1970.
        """


def chain(previous: bytes, body: bytes) -> bytes:
    """The hash of a frame that follows `previous`."""
    return hashlib.sha256(previous + body).digest()


def follow(frame: Frame, known: int, head: bytes) -> None:
    """Checks that a frame goes on where its origin's chain ends: at `known`, with the hash `head`.

    Raises `HistoryTruncated` if there is a gap, and `ChainBroken`.
    """
    where = f"the frame of {frame.origin} at {frame.first}"
    if frame.first > known + 1:
        raise HistoryTruncated(f"{where} came, and {known + 1} was expected")
    if frame.first <= known:
        raise ChainBroken(f"{where} overlaps what ends at {known}")
    if chain(head, frame.body) != frame.hash:
        raise ChainBroken(f"{where} does not follow from what is here up to {known}")


def build(
    origin: Origin,
    first: int,
    previous: bytes,
    columns: Columns,
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
    types = _thin(map(_type, columns.entities))
    actors, request_ids = _thin(columns.actors), _thin(columns.request_ids)
    traces, shapes = _thin(columns.traces), _thin(columns.shapes)
    strings = _places([("",), types, actors, request_ids])
    trace_at = _places([("",), traces])
    shape_at = _places([shapes])
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
        keys=map(_key, columns.entities),
        generations=_thin(columns.generations),
        kinds=_thin(columns.kinds),  # type: ignore[arg-type] # plain numbers of the enum
        actors=map(strings.__getitem__, actors),
        traces=map(trace_at.__getitem__, traces),
        writes_left=_thin(columns.writes_left),
        request_ids=map(strings.__getitem__, request_ids),
        change_shapes=map(shape_at.__getitem__, shapes),
        shapes=map(_shape_to_proto, shape_at),
        contents=columns.contents,
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
    )


def _places(columns: Iterable[Iterable[T]]) -> dict[T, int]:
    """The distinct values of some columns, each with its place among them."""
    return {value: at for at, value in enumerate(dict.fromkeys(chained.from_iterable(columns)))}


_type: Callable[[EntityKey], str] = itemgetter(0)
_key: Callable[[EntityKey], str] = itemgetter(1)


def _thin(values: Iterable[T]) -> Sequence[T]:
    """A column whose entries are all the same has just one."""
    column = list(values)
    return column[:1] if column.count(column[0]) == len(column) else column


def _full(values: Iterable[int], count: int) -> list[int]:
    column = list(values)
    return column * count if len(column) == 1 else column


def _shape_to_proto(shape: Shape) -> frame_pb2.Shape:
    return frame_pb2.Shape(paths=[path for path, _ in shape], rules=[rule for _, rule in shape])


def parse(body: bytes, hash: bytes, known: Known = KNOWN) -> Frame:
    """Reads a frame's columns; its chain is checked where it is received.

    What in it is not `known` is parked. Raises `FormatUnknown` for the format of a newer version,
    and `ChainBroken` if the columns contradict each other.
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
        shapes = [_shape_from_proto(shape, known) for shape in message.shapes]
        clocks = dict(zip(dependencies, message.dependency_clocks, strict=True))
        columns = _columns(message, shapes)
        receipts = from_proto(message.receipts, columns)
    except (ValueError, IndexError):
        raise ChainBroken(f"{where} is damaged: its columns do not match") from None
    except LinkFault as fault:
        raise type(fault)(f"{where} {fault}") from None
    if 0 in columns.kinds:
        raise ChainBroken(f"{where} is damaged: it holds a change of no kind")
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
    if not known.kinds.issuperset(columns.kinds):
        frame.columns = columns = _beside(columns, known)
    elif not any(rule < 0 for shape in shapes for _, rule in shape):
        return frame
    frame.parked = frozenset(
        entity
        for entity, shape in zip(columns.entities, columns.shapes, strict=True)
        if any(rule < 0 for _, rule in shape)
    )
    return frame


def _beside(columns: Columns, known: Known) -> Columns:
    """The columns of a frame with the changes of unknown kinds put beside their entities."""
    changed = [
        change if change.kind in known.kinds else beside(change)
        for change in columns.changes(Origin("", 0))
    ]
    return of_changes(changed)


def _shape_from_proto(message: frame_pb2.Shape, known: Known) -> Shape:
    if 0 in message.rules:
        raise ChainBroken("is damaged: it names no merge rule")
    if not all(map(_is_path, message.paths)):
        raise ChainBroken("is damaged: it names a field that cannot be")
    shape = tuple(zip(message.paths, message.rules, strict=True))
    if len(set(shape)) < len(shape):
        raise ChainBroken("is damaged: it names a field twice")
    return interned(parked_shape(shape, known))


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
    count = len(message.keys)
    types = map(strings.__getitem__, _full(message.types, count))
    columns = Columns(
        list(zip(types, message.keys, strict=True)),
        _full(message.generations, count),
        _full(message.kinds, count),
        list(message.clocks),
        list(map(strings.__getitem__, _full(message.actors, count))),
        list(map(traces.__getitem__, _full(message.traces, count))),
        list(map(strings.__getitem__, _full(message.request_ids, count))),
        _full(message.writes_left, count),
        list(map(shapes.__getitem__, _full(message.change_shapes, count))),
        list(message.contents),
    )
    if set(map(len, columns)) != {count}:
        raise ValueError("columns of different lengths")
    return columns


def take_apart(frame: Frame) -> None:
    """Makes a received frame ready to be merged. Raises `ChainBroken` if a change is damaged.

    Changes of plain shapes are merged as they lie, the others as the states that they stand for.
    """
    columns = frame.columns
    frame.plain = DELETE not in columns.kinds and all(
        places(shape) is not None for shape in set(columns.shapes)
    )
    if not frame.plain:
        frame.states = [received(change) for change in frame.changes]
        return
    try:
        frame_pb2.FrameContents.FromString(frame.body)
    except DecodeError:
        raise ChainBroken("a cell is damaged: its content is no message") from None
