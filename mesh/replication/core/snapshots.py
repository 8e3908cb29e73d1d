"""Snapshots: a group's state at a vector, in pieces, for a region that frames cannot bring there.

A snapshot is a header and pieces. The header has, for each origin, the position, the chain's hash
and the clock there, so that the tail follows from it as from the frames themselves; and the
origin's signature of these, so that who gives a snapshot can claim no history of others that they
did not write. (That the state is what this history makes, only comparing digests shows.) Pieces are
chained as frames are: each hash is SHA-256 over the one before it and the piece; the first is
chained to the header. What was taken stays good when a stream breaks.

The sender encodes pieces when they are sent, while writes go on: states are never changed in place,
and what a capture still needs is noted when it is replaced (copy on write).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Container, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from google.protobuf.message import DecodeError
from isthmus.replication.v1 import frame_pb2, snapshot_pb2

from mesh.replication.core import entities
from mesh.replication.core.cells import RULES
from mesh.replication.core.clocks import Origin, Vector, origin_from_proto
from mesh.replication.core.entities import EntityKey, EntityState
from mesh.replication.core.errors import FormatUnknown, LinkFault, SnapshotDamaged
from mesh.replication.core.receipts import Receipt, ReceiptKey

FORMAT = 1
PIECE_BYTES = 64 << 10
"""A piece is closed at this size; one entity that is larger is a piece of its own."""

REUSED_MS = 30_000
"""For how long after it was taken a capture serves others than those who ask for it by its id."""

KEPT_MS = 10 * 60_000
"""For how long after it was last read a capture can be resumed."""

ReadReceipts = Callable[[ReceiptKey, int, int], list[Receipt]]
"""Kept receipts after a key and up to a time in ms since 1970, some bytes of them, by key."""


class Position(NamedTuple):
    """How far an origin is at a snapshot's vector.

    `hash` and `clock` are those of the end, `signature` the origin's own of it; empty if it has
    made none.
    """

    sequence: int
    hash: bytes
    clock: int
    signature: bytes = b""


@dataclass(frozen=True)
class Header:
    """What a snapshot is of. `id` is chosen by its sender, which is `region`."""

    id: bytes
    region: str
    positions: Mapping[Origin, Position]
    entities: int

    @property
    def vector(self) -> Vector:
        """The snapshot's vector."""
        return {origin: position.sequence for origin, position in self.positions.items()}

    def encode(self) -> bytes:
        """Its canonical bytes, to which the first piece is chained."""
        return snapshot_pb2.SnapshotHeader(
            format=FORMAT,
            id=self.id,
            region=self.region,
            origins=[
                frame_pb2.Origin(region=origin.region, incarnation=origin.incarnation)
                for origin in sorted(self.positions)
            ],
            sequences=[self.positions[origin].sequence for origin in sorted(self.positions)],
            hashes=[self.positions[origin].hash for origin in sorted(self.positions)],
            clocks=[self.positions[origin].clock for origin in sorted(self.positions)],
            signatures=[self.positions[origin].signature for origin in sorted(self.positions)],
            entities=self.entities,
        ).SerializeToString(deterministic=True)

    @classmethod
    def decode(cls, data: bytes) -> Header:
        """Reads a header. Raises `SnapshotDamaged` and `FormatUnknown`."""
        try:
            message = snapshot_pb2.SnapshotHeader.FromString(data)
            if message.format != FORMAT:
                raise FormatUnknown(
                    f"a snapshot has format {message.format}; this version reads {FORMAT}"
                )
            positions = {
                origin_from_proto(origin): Position(sequence, hash, clock, signature)
                for origin, sequence, hash, clock, signature in zip(
                    message.origins,
                    message.sequences,
                    message.hashes,
                    message.clocks,
                    message.signatures,
                    strict=True,
                )
            }
        except (DecodeError, ValueError) as error:
            raise SnapshotDamaged(f"a snapshot's header is damaged: {error}") from None
        if not all(p.sequence and len(p.hash) == 32 for p in positions.values()):
            raise SnapshotDamaged("a snapshot's header is damaged: it has an empty position")
        return cls(message.id, message.region, positions, message.entities)


def snapshot_id(origin: Origin, clock: int, now_ms: int, vector: Mapping[Origin, int]) -> bytes:
    """An id that no other snapshot has: 16 bytes."""
    told = f"{origin} {clock} {now_ms} {sorted(vector.items())}"
    return hashlib.sha256(told.encode()).digest()[:16]


class Piece(NamedTuple):
    """One piece as it is sent and staged: `number` counts from 0, `last` ends the snapshot."""

    number: int
    body: bytes
    hash: bytes
    last: bool


def start(header: bytes) -> bytes:
    """What the first piece is chained to."""
    return hashlib.sha256(header).digest()


def chain(previous: bytes, body: bytes, *, last: bool) -> bytes:
    """The hash of a piece that follows `previous`."""
    return hashlib.sha256(previous + (b"\1" if last else b"\0") + body).digest()


class Contents(NamedTuple):
    """What is in a piece; `unread` are those of its entities in which something is parked."""

    states: dict[EntityKey, EntityState]
    receipts: list[Receipt]
    unread: set[EntityKey]


def rows(body: bytes) -> Iterator[tuple[EntityKey, bytes]]:
    """The entities in a piece that was read before, with their canonical bytes."""
    message = snapshot_pb2.SnapshotBody.FromString(body)
    types = map(list(message.type_names).__getitem__, message.types)
    yield from zip(zip(types, message.keys, strict=True), message.states, strict=True)


def read(body: bytes, rules: Container[int] = RULES) -> Contents:
    """Reads a piece, knowing some merge rules. Raises `SnapshotDamaged` and `FormatUnknown`."""
    unread: set[EntityKey] = set()
    try:
        message = snapshot_pb2.SnapshotBody.FromString(body)
        types = list(message.type_names)
        states: dict[EntityKey, EntityState] = {}
        for type_at, key, data in zip(message.types, message.keys, message.states, strict=True):
            entity = types[type_at], key
            states[entity], some = entities.read(data, rules)
            if some:
                unread.add(entity)
    except FormatUnknown:
        raise
    except (DecodeError, ValueError, IndexError, LinkFault) as error:
        raise SnapshotDamaged(f"a snapshot's piece is damaged: {error}") from None
    receipts = [
        Receipt(r.actor, r.method, r.request_id, r.request_digest, r.response_type, r.response, ms)
        for r, ms in zip(message.receipts, message.receipt_times, strict=False)
    ]
    return Contents(states, receipts, unread)


class Capture:
    """The sender's side: what was committed at one moment, and the pieces that come of it.

    `keys` are those of all that is committed, in the order in which a store keeps them: so to
    install it writes page after page. Pieces are made anew whenever they are asked for: the bytes
    of one are all that is held. `sound` says whether an entity's bytes are what they were.
    """

    def __init__(
        self,
        header: Header,
        committed: Mapping[EntityKey, EntityState],
        keys: list[EntityKey],
        until_ms: int,
        now_ms: int,
        sound: Callable[[EntityKey, bytes], bool] = lambda entity, canonical: True,
    ) -> None:
        self.header = header
        self._sound = sound
        self.spoilt = False
        """Whether it may hold what was damaged: it is given to nobody any more."""
        self.taken_ms = self.used_ms = now_ms
        self._until_ms = until_ms
        self._committed = committed
        self._keys = keys
        self._replaced: dict[EntityKey, EntityState | None] = {}
        # Where each piece begins that was made, or comes next, and what it is chained to.
        self._starts: list[tuple[int, ReceiptKey | None]] = [(0, None)]
        self._hashes = [start(header.encode())]

    def replaced(self, states: Mapping[EntityKey, EntityState | None]) -> None:
        """Takes note of what entities were until now: others take their place."""
        for entity, before in states.items():
            self._replaced.setdefault(entity, before)

    def has(self, number: int) -> bool:
        """Whether a piece can be made: all before it were."""
        return number < len(self._starts)

    def piece(self, number: int, receipts: ReadReceipts) -> Piece:
        """A piece by its number."""
        del self._starts[number + 1 :], self._hashes[number + 1 :]
        at, after = self._starts[number]
        body, at, after = self._body(at, after, receipts)
        last = at == len(self._keys) and after is None
        data = body.SerializeToString(deterministic=True)
        hash = chain(self._hashes[number], data, last=last)
        if not last:
            self._starts.append((at, after))
            self._hashes.append(hash)
        return Piece(number, data, hash, last)

    def _body(
        self, at: int, after: ReceiptKey | None, receipts: ReadReceipts
    ) -> tuple[snapshot_pb2.SnapshotBody, int, ReceiptKey | None]:
        """A piece from an entity on, or from after a receipt; and where the next one begins."""
        body = snapshot_pb2.SnapshotBody()
        types: dict[str, int] = {}
        size = 0
        while at < len(self._keys) and size < PIECE_BYTES:
            entity = self._keys[at]
            at += 1
            state = self._replaced.get(entity)
            data = entities.encode(state or self._committed[entity])
            if state is None and not self._sound(entity, data):
                self.spoilt = True
            body.types.append(types.setdefault(entity[0], len(types)))
            body.keys.append(entity[1])
            body.states.append(data)
            size += len(data) + len(entity[1]) + 8
        body.type_names.extend(types)
        if at < len(self._keys):
            return body, at, None
        if size >= PIECE_BYTES and after is None:
            return body, at, ("", "", "")
        found = receipts(after or ("", "", ""), PIECE_BYTES, self._until_ms)
        for each in found:
            body.receipts.add(
                actor=each.actor,
                method=each.method,
                request_id=each.request_id,
                request_digest=each.digest,
                response_type=each.type,
                response=each.response,
            )
            body.receipt_times.append(each.time_ms)
        return body, at, found[-1][:3] if found else None


class Captures:
    """All captures of a group that are held: few, since one serves all who ask at that time."""

    def __init__(self) -> None:
        self._held: list[Capture] = []

    def pinned(self, horizon: Vector, now_ms: int) -> Vector:
        """A horizon, as far as the journal may be cut: whoever takes a snapshot needs its tail."""
        self.expire(now_ms)
        for capture in self._held:
            at = capture.header.positions
            horizon = {
                origin: min(sequence, at[origin].sequence)
                for origin, sequence in horizon.items()
                if origin in at
            }
        return horizon

    def replaced(self, states: Mapping[EntityKey, EntityState | None]) -> None:
        """What entities were until now."""
        for capture in self._held:
            capture.replaced(states)

    def spoil(self) -> None:
        """An entity is damaged, or was: what was captured until now may hold that."""
        for capture in self._held:
            capture.spoilt = True
        self._held.clear()

    def find(self, id: bytes, now_ms: int) -> Capture | None:
        """The capture that somebody has a part of."""
        for capture in self._held:
            if capture.header.id == id:
                capture.used_ms = now_ms
                return capture
        return None

    def recent(self, now_ms: int) -> Capture | None:
        """One that was taken just now."""
        for capture in self._held:
            if 0 <= now_ms - capture.taken_ms < REUSED_MS:
                capture.used_ms = now_ms
                return capture
        return None

    def add(self, capture: Capture) -> None:
        """Holds a new one."""
        self._held.append(capture)

    def expire(self, now_ms: int) -> None:
        """Lets go of those that nobody reads any more."""
        self._held = [c for c in self._held if 0 <= now_ms - c.used_ms < KEPT_MS]


class Install(NamedTuple):
    """What a snapshot makes of what is here: stored in one transaction, in place of its pieces.

    `states` are those that joined with what was here, and what was deleted here; all others in the
    pieces are taken as they came, but for those that are `kept` out. Those that are `unproven`
    joined with what is damaged here: they are stored under `UNPROVEN`, so that a process that
    starts before they are repaired knows it too. `positions` are those of all origins then,
    `parked` are entities in which something waits for a newer version.
    """

    states: Mapping[EntityKey, EntityState]
    kept: frozenset[EntityKey]
    receipts: list[Receipt]
    positions: Mapping[Origin, Position]
    parked: frozenset[EntityKey] = frozenset()
    unproven: Collection[EntityKey] = ()


@dataclass
class Staging:
    """What a commit does to the snapshot that comes in.

    `header` begins another one; `pieces` are kept; `install` ends it.
    """

    id: bytes
    header: bytes | None = None
    pieces: list[Piece] = field(default_factory=list)
    install: Install | None = None


class Staged(NamedTuple):
    """A snapshot that had come in part when the store was closed."""

    header: bytes
    pieces: list[Piece]
