"""Comparing a region's state with a peer's, range by range, while both go on writing.

The peer tells the sum of a range at its vector V. Once this region has all of V, it has also some
changes that the peer had not: if none of those touched the range, both have the same changes of it,
and their sums must be equal (after Merkle-tree anti-entropy as in DeCandia et al., "Dynamo", 2007;
the vector takes the place of quiet). A range that was touched is asked for again, in smaller
pieces, down to one bucket. An entity that never rests is compared otherwise: the peer's state at V
must add nothing to the state here, and the peer finds the same of the state here.

A range that differs is taken apart until its entities can be listed.

One pass goes over all buckets. When it is through, both are equal up to the least of its vectors.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from google.protobuf.duration_pb2 import Duration
from isthmus.replication.v1 import digest_pb2, frame_pb2

from mesh.replication.core.answers import MOST_LISTED, entity_to_proto
from mesh.replication.core.clocks import Vector, covers, vector_from_proto, vector_to_proto
from mesh.replication.core.damage import DIVERGENCE, Offer
from mesh.replication.core.digest import BUCKETS
from mesh.replication.core.entities import EntityKey, EntityState, decode, join
from mesh.replication.core.frames import parse

if TYPE_CHECKING:
    from mesh.replication.core.integrity import Integrity
    from mesh.replication.core.journal import Journal

PASS_EVERY_MS = 2000
"""A pass begins at most so often; one over a large group takes longer, by its budget."""

PATIENCE_MS = 5000
"""After that an answer that does not come, or cannot be used, is asked for again."""

_MOST_RANGES = 32
_WIDEST = 256
_HOT_TRIES = 4
_RETRY_MS = 50
_SLOWEST_RETRY_MS = 1000
_MOST_WANTED = 16
_MOST_DESCENDED = MOST_LISTED // 4


@dataclass
class Piece:
    """Buckets to be compared; `tries` counts how often they could not be."""

    first: int
    end: int
    tries: int = 0
    ready_ms: int = 0
    listed: bool = False
    restless: set[EntityKey] = field(default_factory=set)
    """Entities that are to be compared by their states: then the piece is proven."""


class Comparison:
    """With one peer, as this region sees it. `compared` and `differed` count ranges.

    `parked`: the peer holds changes that it cannot read. Their entities, and those that have any
    here, are not comparable.
    """

    def __init__(self, journal: Journal, integrity: Integrity, peer: str) -> None:
        self.equal_up_to: Vector | None = None
        self.compared = 0
        self.differed = 0
        self.parked = False
        self._journal = journal
        self._integrity = integrity
        self._peer = peer
        self._proven_ms = 0
        self._began_ms = 0
        self._next_pass_ms = 0
        self._next_wanted_ms = 0
        self._cursor = BUCKETS
        self._least: Vector | None = None
        self._pieces: list[Piece] = []
        self._under_way: list[Piece] = []
        self._entities = 64
        self._id = 0
        self._asked_ms: int | None = None
        self._answer: digest_pb2.Answer | None = None
        self._vector: Vector = {}

    def status(self, now_ms: int) -> digest_pb2.PairStatus:
        """How the two compare."""
        waiting = [*self._pieces, *self._under_way]
        message = digest_pb2.PairStatus(
            peer=self._peer,
            ranges_compared=self.compared,
            ranges_differed=self.differed,
            parked=self._incomparable,
            buckets_left=BUCKETS - self._cursor + sum(p.end - p.first for p in waiting),
        )
        if self.equal_up_to is not None:
            message.equal_up_to.CopyFrom(vector_to_proto(self.equal_up_to))
            message.proven.FromMilliseconds(self._proven_ms)
            age = Duration()
            age.FromMilliseconds(max(0, now_ms - self._proven_ms))
            message.age.CopyFrom(age)
        return message

    @property
    def under_way(self) -> bool:
        """Whether a pass is under way."""
        return self._cursor < BUCKETS or bool(self._pieces or self._under_way)

    def forget(self) -> None:
        """The stream is another one: what was asked is not answered any more."""
        self._pieces += self._under_way
        self._under_way = []
        self._asked_ms = self._answer = None

    def answered(self, answer: digest_pb2.Answer) -> None:
        """The peer answers."""
        if self._asked_ms is not None and answer.id == self._id and self._answer is None:
            self._answer = answer
            self._vector = vector_from_proto(answer.vector)
            self._take_offers(answer)

    def go_on(self, now_ms: int) -> digest_pb2.Inquiry | None:
        """Compares what an answer tells, as far as the budget allows; returns what to ask next."""
        if self._asked_ms is not None and not 0 <= now_ms - self._asked_ms < PATIENCE_MS:
            self.forget()
        if not self._integrity.comparing.open:
            return None
        if self._answer is not None and covers(self._journal.vector, self._vector):
            self._compare(self._answer, now_ms)
        if self._asked_ms is not None:
            return None
        return self._inquire(now_ms)

    # Asking.

    def _inquire(self, now_ms: int) -> digest_pb2.Inquiry | None:
        idle = self._cursor == BUCKETS and not self._pieces
        if idle and _due(self._next_pass_ms, now_ms):
            self._began_ms = now_ms
            self._next_pass_ms = now_ms + PASS_EVERY_MS
            self._cursor = 0
            self._least = None
        inquiry = digest_pb2.Inquiry(id=self._id + 1)
        self._want_damaged(inquiry, now_ms)
        later: list[Piece] = []
        for piece in self._pieces:
            ready = len(self._under_way) < _MOST_RANGES and _due(piece.ready_ms, now_ms)
            (self._under_way if ready else later).append(piece)
        self._pieces = later
        self._advance()
        for piece in self._under_way:
            span = digest_pb2.BucketRange(first=piece.first, end=piece.end)
            if piece.restless:
                inquiry.entities.extend(map(entity_to_proto, sorted(piece.restless)))
            elif piece.listed:
                inquiry.listings.append(span)
            else:
                inquiry.ranges.append(span)
        if not (self._under_way or inquiry.entities or inquiry.frames):
            return None
        self._id += 1
        self._asked_ms = now_ms
        return inquiry

    def _advance(self) -> None:
        """Takes the next ranges, each with about as many entities as lately rested."""
        digest = self._integrity.digest
        while self._cursor < BUCKETS and len(self._under_way) < _MOST_RANGES:
            end = digest.reach(self._cursor, self._entities)
            self._under_way.append(Piece(self._cursor, end))
            self._cursor = end

    def _want_damaged(self, inquiry: digest_pb2.Inquiry, now_ms: int) -> None:
        if not _due(self._next_wanted_ms, now_ms):
            return
        self._next_wanted_ms = now_ms + _SLOWEST_RETRY_MS
        wanted = [
            damage
            for damage in self._integrity.damages.open(from_peers=True)
            if self._peer not in damage.offers and self._peer not in damage.frames
        ]
        for damage in wanted[:_MOST_WANTED]:
            if damage.entity is not None:
                inquiry.entities.append(entity_to_proto(damage.entity))
            elif damage.frame is not None:
                (region, incarnation), first = damage.frame
                origin = frame_pb2.Origin(region=region, incarnation=incarnation)
                inquiry.frames.append(frame_pb2.Position(origin=origin, sequence=first))

    def _take_offers(self, answer: digest_pb2.Answer) -> None:
        damages = self._integrity.damages
        for copy in answer.entities:
            damage = damages.wanted((copy.entity.type, copy.entity.key))
            if damage is not None and copy.damaged:
                damage.helpless.add(self._peer)
            elif damage is not None:
                state = self._decoded(copy) if copy.state else None
                damage.offers[self._peer] = Offer(self._vector, state)
        for frame in answer.frames:
            body = parse(frame.body, frame.hash, self._journal.known)
            body.signature = frame.signature
            damage = damages.wanted((body.origin, body.first))
            if damage is not None:
                damage.frames[self._peer] = body

    # Comparing.

    def _compare(self, answer: digest_pb2.Answer, now_ms: int) -> None:
        budget = self._integrity.comparing
        with budget.spending():
            beyond = self._integrity.recent.beyond(self._vector)
        sums = {each.range.first: each for each in answer.ranges}
        lists = {each.range.first: each for each in answer.listings}
        copies = {(each.entity.type, each.entity.key): each for each in answer.entities}
        rested = restless = 0
        while self._under_way and budget.open:
            piece = self._under_way.pop()
            if beyond is None:
                self._again(piece, now_ms)
                continue
            with budget.spending():
                touched = self._touched(piece, beyond)
                if piece.restless:
                    self._by_states(piece, copies, beyond, now_ms)
                elif piece.listed and piece.first in lists:
                    self._by_list(piece, lists[piece.first], touched, beyond, now_ms)
                elif not piece.listed and piece.first in sums:
                    restless += bool(touched)
                    rested += not touched
                    self._by_sum(piece, sums[piece.first], touched, now_ms)
                else:
                    self._pieces.append(piece)
        if rested or restless:
            self._entities = max(1, self._entities // 2) if restless > rested else self._entities
            self._entities = min(_WIDEST, self._entities * 2) if not restless else self._entities
        if not self._under_way:
            self._asked_ms = self._answer = None
            if self._cursor == BUCKETS and not self._pieces:
                self.equal_up_to = self._least or {}
                self._proven_ms = self._began_ms

    def _touched(self, piece: Piece, beyond: set[EntityKey]) -> set[EntityKey]:
        """The entities of a piece that changed here beyond the peer's vector."""
        return beyond.intersection(self._integrity.digest.within(piece.first, piece.end))

    def _by_sum(
        self, piece: Piece, told: digest_pb2.RangeDigest, touched: set[EntityKey], now_ms: int
    ) -> None:
        if not self._shorten(piece, told.range.end):
            self._again(piece, now_ms)
        elif touched:
            self._split(piece, 2, now_ms)
        elif told.digest == self._integrity.digest.range_sum(piece.first, piece.end):
            self._proven()
        else:
            self.differed += not self._incomparable
            held = sum(1 for _ in self._integrity.digest.within(piece.first, piece.end))
            if held > _MOST_DESCENDED:
                self._split(piece, 4, now_ms)
            else:
                piece.listed = True
                self._pieces.append(piece)

    def _by_list(
        self,
        piece: Piece,
        told: digest_pb2.RangeEntities,
        touched: set[EntityKey],
        beyond: set[EntityKey],
        now_ms: int,
    ) -> None:
        if not self._shorten(piece, told.range.end):
            self._again(piece, now_ms)
            return
        digest = self._integrity.digest
        theirs = {(e.entity.type, e.entity.key): e.fingerprint for e in told.entities}
        unread = {(e.entity.type, e.entity.key) for e in told.entities if e.parked}
        if self.parked:  # what a change of an unknown kind created may be missing there
            unread |= set(digest.within(piece.first, piece.end)) - theirs.keys()
        mine = set(digest.within(piece.first, piece.end))
        # Deleted beyond the peer's vector, and the tombstone is dropped already.
        gone = (theirs.keys() - mine) & beyond
        differing = [
            entity
            for entity in theirs.keys() | mine
            if entity not in touched
            and entity not in gone
            and entity not in unread
            and not self._journal.parks(entity)
            and digest.part(entity) != int.from_bytes(theirs.get(entity, b""), "big")
        ]
        self.differed += bool(differing) and self._incomparable
        for entity in differing:
            self._differs(entity, now_ms)
        if differing:
            self._again(piece, now_ms)
        elif not touched:
            self._proven()
        elif piece.tries < _HOT_TRIES:
            self._again(piece, now_ms)
        else:
            self._lower()
            piece.restless = touched
            self._pieces.append(piece)

    def _by_states(
        self,
        piece: Piece,
        copies: dict[EntityKey, digest_pb2.EntityCopy],
        beyond: set[EntityKey],
        now_ms: int,
    ) -> None:
        for entity in tuple(piece.restless & copies.keys()):
            copy = copies[entity]
            mine = self._journal.committed.get(entity)
            if copy.damaged:
                continue
            theirs = self._decoded(copy) if copy.state else None
            # Deleted beyond the peer's vector, and the tombstone is dropped already.
            gone = mine is None and entity in beyond
            skipped = copy.parked or self._journal.parks(entity) or gone or _ended(mine, theirs)
            if not skipped and theirs is not None and join(mine, theirs) is not mine:
                self._differs(entity, now_ms)
                continue
            piece.restless.discard(entity)
        if piece.restless:
            self._again(piece, now_ms)
        else:
            self._proven()

    def _decoded(self, copy: digest_pb2.EntityCopy) -> EntityState:
        return decode(copy.state, self._journal.known.rules)

    @property
    def _incomparable(self) -> bool:
        return self.parked or not self._journal.reads_all

    def _differs(self, entity: EntityKey, now_ms: int) -> None:
        if not self._integrity.suspect(entity, now_ms):
            detail = f"{self._peer} holds something else after the same changes"
            self._integrity.damages.add(DIVERGENCE, entity, now_ms, detail)

    def _shorten(self, piece: Piece, end: int) -> bool:
        """The peer told of less than it was asked for: the rest is another piece."""
        if not piece.first < end <= piece.end:
            return False
        if end < piece.end:
            self._pieces.append(Piece(end, piece.end, listed=piece.listed))
            piece.end = end
        return True

    def _split(self, piece: Piece, parts: int, now_ms: int) -> None:
        """Asks again, for parts with about as many entities each; one bucket stays whole."""
        digest = self._integrity.digest
        held = sum(1 for _ in digest.within(piece.first, piece.end))
        if piece.end - piece.first == 1 or held < 2:
            self._again(piece, now_ms)
            return
        first = piece.first
        while first < piece.end:
            end = min(piece.end, digest.reach(first, max(1, held // parts)))
            self._pieces.append(Piece(first, end, piece.tries, now_ms + _RETRY_MS))
            first = end

    def _again(self, piece: Piece, now_ms: int) -> None:
        piece.tries += 1
        piece.ready_ms = now_ms + min(_SLOWEST_RETRY_MS, _RETRY_MS << min(piece.tries, 8))
        piece.restless = set()
        piece.listed = piece.tries >= _HOT_TRIES
        self._pieces.append(piece)

    def _proven(self) -> None:
        self.compared += 1
        self._lower()

    def _lower(self) -> None:
        if self._least is None:
            self._least = dict(self._vector)
        else:
            both = self._least.keys() & self._vector.keys()
            self._least = {o: min(self._least[o], self._vector[o]) for o in both}


def _ended(mine: EntityState | None, theirs: EntityState | None) -> bool:
    """Whether an entity lives in neither region, or not here, and what lives there has ended.

    Tombstones are dropped at different times, and a delete that comes after that makes one that
    knows nothing of what it ended.
    """
    if theirs is None or theirs.deleted:
        return mine is None or mine.deleted
    return mine is not None and mine.deleted and theirs.generation <= mine.generation


def _due(at_ms: int, now_ms: int) -> bool:
    """Whether a time has come. One that a clock set back put far away has."""
    return not 0 < at_ms - now_ms <= PASS_EVERY_MS
