"""Whether a region holds what it was given: its digest, what was damaged, how it compares."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from isthmus.replication.v1 import digest_pb2

from mesh.replication.core.budget import Budget
from mesh.replication.core.clocks import milliseconds
from mesh.replication.core.comparison import Comparison
from mesh.replication.core.damage import DIVERGENCE, MEMORY, STORED_STATE, Damages
from mesh.replication.core.digest import BUCKETS, Digest
from mesh.replication.core.entities import UNPROVEN, EntityKey, EntityState, checksum, fingerprint
from mesh.replication.core.recent import Recent

if TYPE_CHECKING:
    from mesh.replication.core.batches import Visible
    from mesh.replication.core.journal import Journal

SCRUB_EVERY_MS = 5000
"""All in memory is hashed again at most so often; a large group takes longer, by its budget."""


MOST_REPLACED = 20_000
"""How many entities' states from before a change are kept until they are hashed again."""


class Integrity:
    """What a journal keeps to prove itself. `known` are fingerprints of states as recovered.

    `comparing` limits what comparing with peers may cost, `scrubbing` all other hashing.
    """

    def __init__(self, journal: Journal, known: Mapping[EntityKey, int]) -> None:
        self.digest = Digest(journal.committed, known)
        self.recent = Recent(journal.vector)
        self.damages = Damages()
        self.comparing = Budget()
        self.scrubbing = Budget()
        self.passes = 0
        self._journal = journal
        self._comparisons: dict[str, Comparison] = {}
        self._replaced: dict[EntityKey, list[tuple[EntityState, int]]] = {}
        self._bucket = BUCKETS
        self._next_pass_ms = 0

    def damaged(self, entities: Mapping[EntityKey, int], now_ms: int) -> None:
        """Entities whose stored state is not what its checksum says, and what that is."""
        for entity, right in entities.items():
            detail = "its stored state is not what its checksum says"
            if right == int.from_bytes(UNPROVEN, "big"):
                detail = "it was damaged when a snapshot came upon it"
            self.damages.add(STORED_STATE, entity, now_ms, detail, right=right)

    def visible(self, visible: Visible) -> None:
        """A commit became visible."""
        touched = frozenset(visible.after)  # From a dict: this hashes nothing anew, nor do sets.
        # What it came upon may have been damaged, and would not be seen any more.
        for entity in touched - self.digest.stale:
            before, kept = visible.before[entity], self.digest.kept(entity)
            if before is not None and kept is not None and len(self._replaced) < MOST_REPLACED:
                self._replaced.setdefault(entity, []).append((before, kept))
        self.digest.touch(touched)
        self.recent.note(visible.frames, touched)

    @property
    def _now_ms(self) -> int:
        """For who looks at an entity when no clock is at hand."""
        return milliseconds(self._journal.clock.last)

    @property
    def busy(self) -> bool:
        """Whether there is more to hash or to compare than one slice."""
        return (
            bool(self.digest.stale)
            or bool(self._replaced)
            or self._bucket < BUCKETS
            or any(comparison.under_way for comparison in self._comparisons.values())
        )

    def with_peer(self, peer: str) -> Comparison:
        """The comparison with a peer."""
        found = self._comparisons.get(peer)
        if found is None:
            found = self._comparisons[peer] = Comparison(self._journal, self, peer)
        return found

    def suspect(self, entity: EntityKey, now_ms: int) -> bool:
        """Whether an entity in memory is not what was hashed; notes it then."""
        return self._suspect(entity, self._replaced.pop(entity, ()), now_ms)

    def _suspect(
        self, entity: EntityKey, replaced: Iterable[tuple[EntityState, int]], now_ms: int
    ) -> bool:
        for before, right in replaced:
            if fingerprint(entity, before) != right:
                detail = "changes came upon its state in memory when that was not what was hashed"
                self.damages.add(MEMORY, entity, now_ms, detail, right=right)
                return True
        if self.digest.holds(entity):
            return False
        detail = "its state in memory is not what was hashed"
        self.damages.add(MEMORY, entity, now_ms, detail, right=self.digest.kept(entity))
        return True

    def trusts(self, entity: EntityKey, *, look: bool) -> bool:
        """Whether an entity's state here is what was written, as far as is known.

        `look`: whether to hash it for that.
        """
        if look:
            self.suspect(entity, self._now_ms)
        damage = self.damages.wanted(entity)
        return damage is None or damage.kind == DIVERGENCE

    def proven(self, entity: EntityKey) -> bool:
        """Whether an entity, hashed for that, is damaged in no way that is known."""
        if self.damages.wanted(entity) is not None:
            return False
        return not self.suspect(entity, self._now_ms)

    def sound(self, entity: EntityKey, canonical: bytes) -> bool:
        """Whether an entity's canonical bytes are those that were hashed; notes it if not."""
        kept = self.digest.kept(entity)
        if kept is None or checksum(entity, canonical) == kept.to_bytes(32, "big"):
            return True
        return not self.suspect(entity, self._now_ms)

    def storable(self, entity: EntityKey) -> bool:
        """Whether an entity's state may be stored: not if it is known to be damaged."""
        if entity in self._replaced and self.suspect(entity, self._now_ms):
            return False
        return self.damages.wanted(entity) is None

    def kept(self, entities: Iterable[EntityKey]) -> dict[EntityKey, int]:
        """The fingerprints of those that have not changed since they were hashed."""
        found = {}
        for entity in entities:
            kept = self.digest.kept(entity)
            if kept is not None:
                found[entity] = kept
        return found

    def scrub(self, now_ms: int) -> None:
        """Hashes again what was hashed, and compares; as much as the budget gives."""
        if self._bucket >= BUCKETS:
            if 0 < self._next_pass_ms - now_ms <= SCRUB_EVERY_MS:
                return  # a time further off is of a clock that was set back since
            self._next_pass_ms = now_ms + SCRUB_EVERY_MS
            self._bucket = 0
        while self._bucket < BUCKETS and self.scrubbing.open:
            with self.scrubbing.spending():
                self._scrub_bucket(now_ms)

    def _scrub_bucket(self, now_ms: int) -> None:
        end = self.digest.reach(self._bucket, 1)
        for entity in tuple(self.digest.within(self._bucket, end)):
            self.suspect(entity, now_ms)
        self._bucket = end
        self.passes += end == BUCKETS

    def hash_changed(self, now_ms: int) -> None:
        """Hashes what changed since it was hashed, first as it was before.

        As much as the budget gives.
        """
        while self._replaced and self.scrubbing.open:
            with self.scrubbing.spending():
                self._suspect(*self._replaced.popitem(), now_ms)
        while self.digest.stale and self.scrubbing.open:
            with self.scrubbing.spending():
                self.digest.hash_next()

    def pairs(self, peers: Iterable[str], now_ms: int) -> list[digest_pb2.PairStatus]:
        """How this region compares with each peer."""
        return [self.with_peer(peer).status(now_ms) for peer in sorted(peers)]
