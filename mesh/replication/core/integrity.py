"""Whether a region holds what it was given: its digest, what was damaged, how it compares."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from isthmus.replication.v1 import digest_pb2

from mesh.replication.core.budget import Budget
from mesh.replication.core.comparison import Comparison
from mesh.replication.core.damage import MEMORY, Damages
from mesh.replication.core.digest import BUCKETS, Digest
from mesh.replication.core.entities import EntityKey
from mesh.replication.core.recent import Recent

if TYPE_CHECKING:
    from mesh.replication.core.journal import Journal, Visible

SCRUB_EVERY_MS = 5000
"""All in memory is hashed again at most so often; a large group takes longer, by its budget."""


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
        self._bucket = BUCKETS
        self._next_pass_ms = 0

    def visible(self, visible: Visible) -> None:
        """A commit became visible."""
        self.digest.touch(visible.after.keys())
        self.recent.note(visible.frames, visible.after.keys())

    @property
    def busy(self) -> bool:
        """Whether there is more to hash or to compare than one slice."""
        return (
            bool(self.digest.stale)
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
        if self.digest.holds(entity):
            return False
        self.damages.add(MEMORY, entity, now_ms, "its state in memory is not what was hashed")
        return True

    def scrub(self, now_ms: int) -> None:
        """Hashes again what was hashed, and compares; as much as the budget gives."""
        if self._bucket >= BUCKETS:
            if now_ms < self._next_pass_ms:
                return
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

    def hash_changed(self) -> None:
        """Hashes what changed since it was hashed; as much as the budget gives."""
        while self.digest.stale and self.scrubbing.open:
            with self.scrubbing.spending():
                self.digest.part(next(iter(self.digest.stale)))

    def pairs(self, peers: Iterable[str], now_ms: int) -> list[digest_pb2.PairStatus]:
        """How this region compares with each peer."""
        return [self.with_peer(peer).status(now_ms) for peer in sorted(peers)]
