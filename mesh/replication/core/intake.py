"""A snapshot that comes in: who gives it, how far it is, and what it makes of what is here.

One peer gives it. Its pieces are staged durably as they come, so that a stream or a process that
ends costs nothing; once the last is on disk, all become visible in one commit, at the snapshot's
vector or beyond. No origin moves backwards: what is here beyond the vector stays, and joins.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from isthmus.replication.v1 import snapshot_pb2

from mesh.replication.core.clocks import MAX_AHEAD_MS, Origin, Vector, milliseconds
from mesh.replication.core.entities import EntityKey, EntityState, join
from mesh.replication.core.errors import (
    ChainBroken,
    ClockAhead,
    LinkFault,
    SignatureInvalid,
    SnapshotDamaged,
)
from mesh.replication.core.homes import life
from mesh.replication.core.parked import KNOWN, NO_TYPE, Known, resume
from mesh.replication.core.receipts import Receipt
from mesh.replication.core.signatures import Head, Verdict
from mesh.replication.core.snapshots import (
    Header,
    Install,
    Piece,
    Position,
    Staged,
    Staging,
    chain,
    read,
    start,
)

if TYPE_CHECKING:
    from mesh.replication.core.batches import Visible
    from mesh.replication.core.integrity import Integrity
    from mesh.replication.core.journal import Journal

TAKEOVER_MS = 10_000
"""After so long a silence of the peer that gives a snapshot, another one may."""


class Progress(NamedTuple):
    """How far a snapshot has come in: entities of all that there are, and bytes of its pieces."""

    peer: str
    taken: int
    total: int
    bytes: int


class Intake:
    """At most one snapshot; shared by all links of a region."""

    def __init__(self, staged: Staged | None = None, known: Known = KNOWN) -> None:
        self._known = known
        self._peer = ""
        self._heard_ms: int | None = None
        self._begin: Header | None = None
        self._new: list[Piece] = []
        self._stored = 0
        if staged is not None:
            try:
                self._begin_with(Header.decode(staged.header))
                for piece in staged.pieces:
                    self._take(piece)
            except LinkFault:
                # Of another version, say: it is asked for anew.
                self._begin = None
            else:
                self._stored = self._count
                self._unsaid = False

    def _begin_with(self, header: Header) -> None:
        self._begin = header
        self._peer = header.region
        self._new = []
        self._stored = 0
        self._states: dict[EntityKey, EntityState] = {}
        self._receipts: list[Receipt] = []
        self._unread: set[EntityKey] = set()
        self._hash = start(header.encode())
        self._count = self._bytes = 0
        self._complete = False
        self._unsaid = True

    # What the links do.

    def accept(self, peer: str, now_ms: int) -> snapshot_pb2.SnapshotRequest | None:
        """A peer offers a snapshot: asks it for one, unless another peer gives it already."""
        if self._begin is not None and self._complete:
            return None
        if self._peer not in ("", peer):
            if self._heard_ms is None:
                self._heard_ms = now_ms
            if 0 <= now_ms - self._heard_ms < TAKEOVER_MS:
                return None
        self._peer = peer
        self._heard_ms = now_ms
        if self._begin is None:
            return snapshot_pb2.SnapshotRequest()
        return snapshot_pb2.SnapshotRequest(id=self._begin.id, pieces=self._count)

    def started(
        self, peer: str, message: snapshot_pb2.SnapshotStart, journal: Journal, now_ms: int
    ) -> None:
        """The peer says which snapshot it sends. Raises the `LinkFault` for which it is refused."""
        if peer != self._peer or (self._begin is not None and self._complete):
            return
        self._heard_ms = now_ms
        header = Header.decode(message.header)
        try:
            _check(header, peer, journal, now_ms)
        except LinkFault:
            if self._begin is None:
                self._peer, self._heard_ms = "", None  # another may give one at once
            raise
        if self._begin is None or self._begin.id != header.id:
            self._begin_with(header)
            first = 0
        else:
            first = self._count
        if message.first_piece > first:
            raise SnapshotDamaged(f"{peer} goes on at piece {message.first_piece}, not at {first}")

    def piece(self, peer: str, message: snapshot_pb2.SnapshotPiece, now_ms: int) -> None:
        """Takes a piece; one that came before, or of another snapshot, is passed over.

        Raises `SnapshotDamaged` and `FormatUnknown`.
        """
        begin = self._begin
        if peer != self._peer or begin is None or self._complete or message.id != begin.id:
            return
        self._heard_ms = now_ms
        if message.number < self._count:
            return
        piece = Piece(message.number, message.body, message.hash, message.last)
        self._take(piece)
        self._new.append(piece)

    def _take(self, piece: Piece) -> None:
        if piece.number != self._count:
            raise SnapshotDamaged(f"piece {piece.number} came, and {self._count} was expected")
        if chain(self._hash, piece.body, last=piece.last) != piece.hash:
            raise SnapshotDamaged(f"piece {piece.number} does not follow from those before it")
        states, receipts, unread = read(piece.body, self._known.rules)
        assert self._begin is not None  # noqa: S101 # its callers looked
        if piece.last and len(self._states) + len(states) != self._begin.entities:
            raise SnapshotDamaged("a snapshot ends before all of its entities came")
        self._states.update(states)
        self._unread |= unread
        self._receipts += receipts
        self._hash = piece.hash
        self._count += 1
        self._bytes += len(piece.body)
        self._complete = piece.last

    def durable(self, id: bytes, number: int) -> bool:
        """Whether a piece takes no room any more: it is stored, or of no use."""
        return self._begin is None or self._begin.id != id or number < self._stored

    @property
    def vector(self) -> Vector:
        """Of what moment the snapshot is that comes in; empty if none does."""
        return {} if self._begin is None else self._begin.vector

    @property
    def progress(self) -> Progress | None:
        """How far a snapshot has come in; None if none is under way."""
        if self._begin is None:
            return None
        return Progress(self._peer, len(self._states), self._begin.entities, self._bytes)

    # What the journal does.

    @property
    def ready(self) -> bool:
        """Whether the whole snapshot is on disk, and waits to be installed."""
        return self._begin is not None and self._complete and self._stored == self._count

    def staging(self) -> Staging | None:
        """What came since the last commit, to be stored with the next."""
        if self._begin is None or not (self._new or self._unsaid):
            return None
        header = self._begin.encode() if self._unsaid else None
        staging = Staging(self._begin.id, header, self._new)
        self._unsaid, self._new = False, []
        return staging

    def stored(self, staging: Staging) -> None:
        """The commit is durable."""
        if self._begin is None or self._begin.id != staging.id:
            return  # another one took its place meanwhile
        if staging.install is None:
            self._stored += len(staging.pieces)
        else:
            self._begin = None
            self._peer, self._heard_ms = "", None

    def failed(self, staging: Staging) -> None:
        """The commit was not stored: the same again with the next."""
        if self._begin is not None and self._begin.id == staging.id:
            self._unsaid = self._unsaid or staging.header is not None
            self._new = staging.pieces + self._new

    def install(
        self,
        committed: Mapping[EntityKey, EntityState],
        positions: Mapping[Origin, Position],
        visible: Visible,
        integrity: Integrity,
    ) -> Staging:
        """What the whole snapshot makes of what is committed at these positions.

        Notes in `visible` what changes by it, and in `integrity` what is found damaged.
        """
        assert self._begin is not None  # noqa: S101 # it is `ready`
        resumed, gone = resume(self._states, self._known)
        kept = set(gone)
        joined: dict[EntityKey, EntityState] = {}
        unproven: set[EntityKey] = set()

        def stays(entity: EntityKey, before: EntityState) -> None:
            """What came of it may be in the journal alone, and the watermark passes that now."""
            joined[entity] = before
            if not integrity.trusts(entity, look=True):
                unproven.add(entity)

        for entity, state in self._states.items():
            before = committed.get(entity)
            if _ended(positions, state, before):
                kept.add(entity)  # and its tombstone is forgotten here
                if before is not None:
                    stays(entity, before)
                continue
            after = join(before, state)
            equal = after is before and join(state, before) is state
            if not integrity.trusts(entity, look=not equal) and after is not None:
                unproven.add(entity)
                joined[entity] = after
            if after is not before and after is not None:
                visible.before[entity] = before
                visible.after[entity] = after
                visible.living += (before is None or before.deleted) - after.deleted
                if after is not state or entity in resumed or entity in self._unread:
                    joined[entity] = after
            elif before is not None and not equal:
                # What is stored of it may be from before: the watermark passes it now.
                joined[entity] = before
        merged = dict(positions)
        for origin, position in self._begin.positions.items():
            if origin not in merged or merged[origin].sequence < position.sequence:
                merged[origin] = position
        for entity, before in committed.items():
            if before.deleted or entity[0] == NO_TYPE:
                if entity not in self._states:
                    stays(entity, before)
                continue
            if _ended(self._begin.positions, before, self._states.get(entity)):
                # The peer has forgotten its tombstone.
                if not integrity.trusts(entity, look=True):
                    unproven.add(entity)
                visible.before[entity] = before
                joined[entity] = before._replace(deleted=True, cells={})
                visible.after[entity] = joined[entity]
                visible.living -= 1
        self._unread = (self._unread | resumed) - gone
        install = Install(
            joined, frozenset(kept), self._receipts, merged, frozenset(self._unread), unproven
        )
        return Staging(self._begin.id, install=install)


def _check(header: Header, peer: str, journal: Journal, now_ms: int) -> None:
    """Raises the `LinkFault` for which a peer's snapshot is refused."""
    if header.region != peer:
        raise SnapshotDamaged(f"{peer} sends a snapshot of {header.region!r}")
    for origin, position in header.positions.items():
        if origin.region != peer:
            # Of its own origins its word is enough: links are authenticated at both ends.
            _check_signed(origin, position, peer, journal)
        ahead = milliseconds(position.clock) - now_ms
        if ahead > MAX_AHEAD_MS:
            raise ClockAhead(f"the snapshot of {peer} is {ahead / 1000:.0f} s ahead, at {origin}")
        known = journal.head(origin)
        if known.sequence == position.sequence and known.hash != position.hash:
            raise ChainBroken(f"the snapshot of {peer} tells another story of {origin}")


def _check_signed(origin: Origin, position: Position, peer: str, journal: Journal) -> None:
    """Raises `SignatureInvalid` unless the origin signed its chain up to a position."""
    head = Head(origin, position.sequence, position.clock, position.hash)
    verdict = journal.keys.examine(head, position.signature)
    if verdict is not Verdict.PROVEN:
        raise SignatureInvalid(
            f"the snapshot of {peer} says that {origin} came to {position.sequence}, and "
            f"{verdict.value}"
        )


def _ended(
    positions: Mapping[Origin, Position], state: EntityState, other: EntityState | None
) -> bool:
    """Whether the life of a state ended for one who is at these positions and has `other` of it.

    Its beginning is among what happened up to there, and nothing is left of it; at most there is a
    tombstone of an earlier life, which a backup brought back.
    """
    begun = state.created
    found = positions.get(Origin(begun.region, begun.incarnation))
    if found is None or begun.clock > found.clock:
        return False
    if other is None:
        return True
    return other.deleted and life(other.generation) < life(state.generation)
