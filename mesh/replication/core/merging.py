"""Merging a batch of frames over what is committed, without touching that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mesh.replication.core import conflicts, entities
from mesh.replication.core.cells import Unseen
from mesh.replication.core.clocks import Vector
from mesh.replication.core.conflicts import Conflict
from mesh.replication.core.entities import Change, EntityKey, EntityState
from mesh.replication.core.frames import Frame


class Merging:
    """What storing frames will change: of each entity the state before and after.

    `living` is by how many more entities will live.
    """

    def __init__(self, committed: Mapping[EntityKey, EntityState], vector: Vector) -> None:
        self.before: dict[EntityKey, EntityState | None] = {}
        self.after: dict[EntityKey, EntityState] = {}
        self.living = 0
        self.conflicts: list[Conflict] = []
        self._committed = committed
        self._vector = dict(vector)

    def local(
        self,
        frame: Frame,
        befores: Sequence[EntityState | None],
        afters: Sequence[EntityState],
    ) -> None:
        """A frame that was made here, with what its writers saw of each entity before and after."""
        unknown = conflicts.unseen(frame, self._vector)
        watched = conflicts.may_hold(frame, unknown)
        look, take, join = self._look, self._take, entities.join
        for at, entity in enumerate(frame.columns.entities):
            before = look(entity)
            if watched:
                change = frame.changes[at]
                self._note(before, change, entities.from_change(change), unknown)
            after = afters[at]
            take(entity, before, after if before is befores[at] else join(before, after))
        self._vector[frame.origin] = frame.last

    def received(self, frame: Frame) -> None:
        """A frame that came from elsewhere."""
        unknown = conflicts.unseen(frame, self._vector)
        watched = conflicts.may_hold(frame, unknown)
        look, take, join = self._look, self._take, entities.join
        for at, entity in enumerate(frame.columns.entities):
            before = look(entity)
            state = frame.states[at]
            if watched:
                self._note(before, frame.changes[at], state, unknown)
            take(entity, before, join(before, state))
        self._vector[frame.origin] = frame.last

    def _look(self, entity: EntityKey) -> EntityState | None:
        found = self.after.get(entity)
        return self._committed.get(entity) if found is None else found

    def _note(
        self, before: EntityState | None, change: Change, written: EntityState, unknown: Unseen
    ) -> None:
        self.conflicts += conflicts.between(before, change, written, unknown)

    def _take(
        self, entity: EntityKey, before: EntityState | None, after: EntityState | None
    ) -> None:
        if after is before or after is None:
            return
        if entity not in self.after:
            self.before[entity] = before
        self.after[entity] = after
        self.living += (before is None or before.deleted) - after.deleted
