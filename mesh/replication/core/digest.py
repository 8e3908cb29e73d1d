"""The digest of a group's state, by ranges.

Each entity falls into one of `BUCKETS` buckets by the CRC-32 of its type and key. The digest of a
range of buckets is the sum, modulo 2^256, of SHA-256 over each entity's canonical bytes (Bellare
and Micciancio, "Incremental Cryptography", 1997, as AdHash): order does not matter, and a change
costs the same however many entities there are. It proves agreement between regions that trust each
other; it is not made to resist a forger.

Tombstones are hashed, to find damage, and are no part of sums: each region drops them when it may.
Changed entities are only noted; who needs a fingerprint pays for it then.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Collection, Iterator, Mapping, Set
from itertools import chain
from zlib import crc32

from mesh.replication.core.entities import EntityKey, EntityState, fingerprint

BUCKETS = 1 << 16
_MODULUS = 1 << 256


def bucket_of(entity: EntityKey) -> int:
    """The bucket of an entity, the same in every region."""
    return crc32(entity[1].encode(), crc32(entity[0].encode())) >> 16


class Digest:
    """Fingerprints of the states in a mapping that it does not change.

    `known` are fingerprints of states as they are.
    """

    def __init__(
        self,
        states: Mapping[EntityKey, EntityState],
        known: Mapping[EntityKey, int] | None = None,
    ) -> None:
        self._states = states
        self._parts: dict[EntityKey, int] = {}
        self.tombstones: set[EntityKey] = set()
        """Those that were hashed."""
        self._buckets: dict[int, list[EntityKey]] = {}
        self._stale: set[EntityKey] = set()
        self._sum = 0
        for entity in states:
            part = (known or {}).get(entity)
            self._buckets.setdefault(bucket_of(entity), []).append(entity)
            self._parts[entity] = part or 0
            if part is None:
                self._stale.add(entity)
            elif states[entity].deleted:
                self.tombstones.add(entity)
            else:
                self._sum += part
        self._numbers = sorted(self._buckets)

    def __len__(self) -> int:
        return len(self._parts)

    def touch(self, changed: Collection[EntityKey]) -> None:
        """Takes note of entities that changed, came or went. Costs no hash."""
        self._stale.update(changed)
        if len(self._states) != len(self._parts):
            for entity in changed:
                if entity not in self._parts:
                    self._add(entity)

    def _add(self, entity: EntityKey) -> None:
        bucket = bucket_of(entity)
        known = self._buckets.get(bucket)
        if known is None:
            known = self._buckets[bucket] = []
            insort(self._numbers, bucket)
        known.append(entity)
        self._parts[entity] = 0

    def forget(self, dropped: Collection[EntityKey]) -> None:
        """Entities are no more among the states, on purpose."""
        for entity in dropped:
            self._stale.discard(entity)
            part = self._parts.pop(entity, None)
            if part is None:
                continue
            if entity in self.tombstones:
                self.tombstones.remove(entity)
            else:
                self._sum -= part
            bucket = bucket_of(entity)
            self._buckets[bucket].remove(entity)
            if not self._buckets[bucket]:
                del self._buckets[bucket]
                del self._numbers[bisect_left(self._numbers, bucket)]

    def numbers(self, first: int, end: int) -> list[int]:
        """The buckets of a range that hold anything, in order."""
        return self._numbers[bisect_left(self._numbers, first) : bisect_left(self._numbers, end)]

    def within(self, first: int, end: int) -> Iterator[EntityKey]:
        """The entities of a range of buckets."""
        for bucket in self.numbers(first, end):
            yield from self._buckets[bucket]

    def entities(self) -> list[EntityKey]:
        """All entities, in the order of their buckets."""
        return list(chain.from_iterable(map(self._buckets.__getitem__, self._numbers)))

    def reach(self, first: int, most: int) -> int:
        """Where a range ends that begins at `first` and holds `most` entities, or a bucket more."""
        held = 0
        for at in range(bisect_left(self._numbers, first), len(self._numbers)):
            bucket = self._numbers[at]
            if held and held + len(self._buckets[bucket]) > most:
                return bucket
            held += len(self._buckets[bucket])
        return BUCKETS

    def part(self, entity: EntityKey) -> int:
        """An entity's fingerprint; 0 for one that there is not, or that is deleted."""
        if entity in self._stale:
            self._stale.discard(entity)
            self._hash(entity)
        return 0 if entity in self.tombstones else self._parts.get(entity, 0)

    def hash_next(self) -> None:
        """Hashes one of those that changed."""
        # Popped: to look for the first of a set that shrinks passes over all that are gone.
        self._hash(self._stale.pop())

    def _hash(self, entity: EntityKey) -> None:
        state = self._states.get(entity)
        part = 0 if state is None else fingerprint(entity, state)
        if entity in self.tombstones:
            self.tombstones.remove(entity)
        else:
            self._sum -= self._parts.get(entity, 0)
        self._parts[entity] = part
        if state is not None and state.deleted:
            self.tombstones.add(entity)
        else:
            self._sum += part

    def range_sum(self, first: int, end: int) -> bytes:
        """The digest of a range of buckets: 32 bytes."""
        return _bytes(sum(self.part(entity) for entity in self.within(first, end)))

    def holds(self, entity: EntityKey) -> bool:
        """Whether an entity's state is still what was hashed, as far as anything was."""
        if entity in self._stale or entity not in self._parts:
            return True
        state = self._states.get(entity)
        return state is not None and fingerprint(entity, state) == self._parts[entity]

    def kept(self, entity: EntityKey) -> int | None:
        """The fingerprint of an entity that has not changed since it was hashed."""
        return None if entity in self._stale else self._parts.get(entity)

    @property
    def stale(self) -> Set[EntityKey]:
        """The entities that changed since they were hashed."""
        return self._stale

    def value(self) -> bytes:
        """The digest of all, hashing what changed: 32 bytes."""
        for entity in tuple(self._stale):
            self.part(entity)
        return _bytes(self._sum)


def _bytes(total: int) -> bytes:
    return (total % _MODULUS).to_bytes(32, "big")
