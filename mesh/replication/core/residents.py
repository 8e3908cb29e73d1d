"""The cells of HOME_REGION fields: a section of their own, next to the journal and never in it.

No frame, digest, snapshot, conflict or etag is made from what is here. A write's part of it is
stored in the transaction that stores its frame, and there is nothing to merge but the writes of
this region, one after the other. The section of an entity is a state as well; its generation is
the life of the entity (see `homes.life`), so that it outlasts a move of the home and ends with a
delete. Nobody else has what is here, so it ends on no word of an entity that may be damaged: such a
section is doubted until the entity is repaired.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import NamedTuple

from mesh.replication.core import entities, homes
from mesh.replication.core.cells import Stamp
from mesh.replication.core.entities import UPSERT, Change, EntityKey, EntityState
from mesh.replication.core.shapes import CellKey, pack, shape_of

Settled = Mapping[EntityKey, EntityState | None]
"""What a commit does to the section: the states after it; None for those that end."""


class Resident(NamedTuple):
    """What one write leaves of an entity in the section."""

    entity: EntityKey
    after: EntityState


def written(
    before: EntityState | None,
    entity: EntityKey,
    life: int,
    stamp: Stamp,
    actor: str,
    deltas: Mapping[CellKey, bytes],
) -> EntityState:
    """The section of an entity after a write of deltas in one of its lives."""
    shape = shape_of(deltas)
    content = pack(shape, map(deltas.__getitem__, shape))
    change = Change(entity, life, UPSERT, stamp, actor, "", "", 0, shape, content)
    return entities.apply(before, change)


class Residents:
    """A group's section. Writers see what is in flight, readers what is stored.

    `committed` is it as it was stored.
    """

    def __init__(self, committed: dict[EntityKey, EntityState]) -> None:
        self.committed = committed
        self._overlay: dict[EntityKey, EntityState] = {}
        self._pending: dict[EntityKey, int] = {}
        self.doubted: set[EntityKey] = set()
        """Sections that may be of a life that ended, by an entity that may be damaged."""

    def doubt(self, states: Mapping[EntityKey, EntityState]) -> None:
        """Settles with a coming batch what is not of the life of these entities, as recovered."""
        self.doubted.update(e for e, s in self.committed.items() if not _lives(states.get(e), s))

    def look(self, entity: EntityKey) -> EntityState | None:
        """The section of an entity as a writer sees it."""
        return self._overlay.get(entity) or self.committed.get(entity)

    def submit(self, parts: Iterable[Resident]) -> None:
        """A write is queued."""
        for part in parts:
            self._overlay[part.entity] = part.after
            self._pending[part.entity] = self._pending.get(part.entity, 0) + 1

    def settle(
        self,
        parts: Iterable[Resident],
        changes: Mapping[EntityKey, EntityState],
        committed: Mapping[EntityKey, EntityState],
        sure: Callable[[EntityKey], bool],
    ) -> Settled:
        """What storing a batch does: its writes' parts, and the end of what it deletes.

        `changes` are the batch's states, over what is committed; `sure` tells of an entity whether
        that is not damaged.
        """
        # A batch may have failed. Not by `intersection_update`, which walks through all sections.
        self.doubted = {entity for entity in self.doubted if entity in self.committed}
        touched = chain(self.committed.keys() & changes.keys(), self.doubted)
        after: dict[EntityKey, EntityState | None] = {e: self.committed[e] for e in touched}
        for part in parts:
            after[part.entity] = part.after
        for entity, section in after.items():
            ends = section is not None and not _lives(
                changes.get(entity) or committed.get(entity), section
            )
            if not ends and entity not in self.doubted:
                continue
            if not sure(entity):
                self.doubted.add(entity)
            elif ends:
                after[entity] = None
            else:
                self.doubted.discard(entity)
        return {
            entity: section
            for entity, section in after.items()
            if section is not self.committed.get(entity)
        }

    def stored(self, settled: Settled, parts: Iterable[Resident]) -> None:
        """A batch is durable, and its writes are no more in flight."""
        for entity, section in settled.items():
            if section is None:
                self.committed.pop(entity, None)
                self.doubted.discard(entity)
            else:
                self.committed[entity] = section
        for part in parts:
            left = self._pending[part.entity] - 1
            if left:
                self._pending[part.entity] = left
            else:
                del self._pending[part.entity], self._overlay[part.entity]

    def replaced(self, entity: EntityKey) -> None:
        """An entity was repaired."""
        if entity in self.committed:
            self.doubted.add(entity)

    def drop(self, in_flight: Iterable[Resident]) -> None:
        """All that was queued is lost, but for what is in flight."""
        self._overlay.clear()
        self._pending.clear()
        self.submit(in_flight)


def _lives(state: EntityState | None, section: EntityState) -> bool:
    if state is None or state.deleted:
        return False
    return homes.life(state.generation) == section.generation
