"""Bytes that change by themselves in a region's memory and on its disk, and what must come of it.

Each is found within `FOUND_WITHIN_MS` while the process lives, under its own name, and nothing else
is; whoever reads or writes the entity in between may see anything, so nobody does.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from mesh.replication.core.damage import DIVERGENCE, MEMORY
from mesh.replication.core.entities import EntityKey, EntityState, decode, encode
from mesh.replication.core.errors import ReplicationError
from mesh.replication.core.integrity import SCRUB_EVERY_MS
from mesh.replication.core.repair import repair
from tests.simulation.model import Violation
from tests.support.regions import CHANNEL

if TYPE_CHECKING:
    from tests.simulation.region import Region

FOUND_WITHIN_MS = 2 * SCRUB_EVERY_MS


class Damage:
    """What is damaged in one region, as the simulation knows it."""

    def __init__(self, region: Region) -> None:
        self._region = region
        self._since: dict[EntityKey, tuple[int, int]] = {}
        self._told_apart: set[EntityKey] = set()

    def started(self) -> None:
        """The process began anew, from what its disk holds."""
        integrity = self._region.journal.integrity
        self._since = dict.fromkeys(self._region.disk.rotten(), (self._now, 0))
        self._told_apart.clear()
        for entity in self._since:
            if integrity.damages.wanted(entity) is None:
                raise Violation(f"{self._region.name} started from a damaged {entity[1]}")

    @property
    def _now(self) -> int:
        return self._region.world.timeline.now

    def concerns(self, key: str) -> bool:
        """Whether an entity may be read as anything here."""
        return (CHANNEL, key) in self._since

    @property
    def entities(self) -> set[EntityKey]:
        """What is damaged here."""
        return set(self._since)

    @property
    def pending(self) -> bool:
        """Whether anything is damaged."""
        return bool(self._since)

    def forgotten(self, dropped: Iterable[EntityKey]) -> None:
        """Tombstones were dropped, damaged or not."""
        for entity in dropped:
            self._since.pop(entity, None)

    def in_memory(self, key: str, at: int) -> None:
        """Changes one byte of an entity's state, if that leaves a state and it was hashed."""
        entity = (CHANNEL, key)
        region = self._region
        journal = region.journal
        state = journal.committed.get(entity)
        hashed = journal.integrity.digest.kept(entity) is not None
        if state is None or not hashed or journal.look(entity) is not state:
            return
        if entity in region.replacing:
            return  # what takes its place was made of it when it was whole
        wrong = altered(encode(state), at)
        if wrong is not None and entity not in self._since:
            journal.committed[entity] = wrong
            open_one = journal.integrity.damages.wanted(entity)
            self._told_apart.discard(entity)
            if open_one is not None and open_one.kind == DIVERGENCE:
                # Two regions differ in it already: that repair replaces it, whatever it is by now.
                self._told_apart.add(entity)
            self._since[entity] = self._now, self._mended(entity)
            region.world.damaged.add(entity)

    def _mended(self, entity: EntityKey) -> int:
        """How often an entity was repaired in this life."""
        mended = self._region.journal.integrity.damages.mended
        any_kind = entity in self._told_apart
        return sum(
            damage.entity == entity and (any_kind or damage.kind != DIVERGENCE) for damage in mended
        )

    def tick(self) -> None:
        """Scrubs and repairs, as a group does, and checks what came of it."""
        region = self._region
        integrity = region.journal.integrity
        integrity.hash_changed(region.wall_ms)
        integrity.scrub(region.wall_ms)
        for visible in repair(region.journal, region.disk, region.linked, region.wall_ms):
            region.repaired(visible)
        if region.journal.residents.doubted:
            region.commit()
        damages = integrity.damages
        for damage in damages.open(from_peers=True):
            if damage.entity not in region.world.damaged:
                raise Violation(f"{region.name} takes what is whole for damaged: {damage}")
            if damage.kind == MEMORY and damage.entity not in self._since:
                raise Violation(f"{region.name} takes its memory for damaged: {damage}")
        for entity, (since, mended) in list(self._since.items()):
            if damages.wanted(entity) is not None:
                continue
            if self._mended(entity) > mended:
                del self._since[entity]
            elif self._now - since > FOUND_WITHIN_MS:
                raise Violation(f"{region.name} has not found the damage of {entity[1]}")


def altered(data: bytes, at: int) -> EntityState | None:
    """The state of bytes of which one is another; None if they are none, or the same."""
    changed = bytearray(data)
    changed[at % len(changed)] ^= 1 + at % 255
    try:
        found = decode(bytes(changed))
        return found if encode(found) != data else None
    except (ReplicationError, ValueError, IndexError, KeyError):
        return None
