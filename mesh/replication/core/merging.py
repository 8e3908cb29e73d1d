"""Merging a batch of frames over what is committed, without touching that."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mesh.replication.core import conflicts, entities
from mesh.replication.core.cells import Unseen
from mesh.replication.core.clocks import Vector
from mesh.replication.core.conflicts import Conflict
from mesh.replication.core.entities import Change, EntityKey, EntityState
from mesh.replication.core.frames import Frame


class Merging:
    """What storing frames will change: for each entity its state before and after."""

    def __init__(self, committed: Mapping[EntityKey, EntityState], vector: Vector) -> None:
        self.changes: dict[EntityKey, tuple[EntityState | None, EntityState]] = {}
        self.conflicts: list[Conflict] = []
        self._committed = committed
        self._vector = dict(vector)

    def local(self, frame: Frame, steps: Iterable[tuple[EntityState | None, EntityState]]) -> None:
        """A frame that was made here; its steps are what its writers saw before and after."""
        unknown = conflicts.unseen(frame, self._vector)
        watched = conflicts.may_hold(frame, unknown)
        for change, (seen, after) in zip(frame.changes, steps, strict=False):
            before = self._look(change.entity)
            if watched:
                self._note(before, change, entities.from_change(change), unknown)
            merged = after if before is seen else entities.join(before, after)
            self._take(change.entity, before, merged)
        self._vector[frame.origin] = frame.last

    def received(self, frame: Frame) -> None:
        """A frame that came from elsewhere."""
        unknown = conflicts.unseen(frame, self._vector)
        watched = conflicts.may_hold(frame, unknown)
        if watched:
            self._watched(frame, unknown)
        else:
            self._merge(zip(frame.columns.entities, frame.states, strict=True))
        self._vector[frame.origin] = frame.last

    def _watched(self, frame: Frame, unknown: Unseen) -> None:
        for change, state in zip(frame.changes, frame.states, strict=True):
            before = self._look(change.entity)
            self._note(before, change, state, unknown)
            self._take(change.entity, before, entities.join(before, state))

    def _merge(self, states: Iterable[tuple[EntityKey, EntityState]]) -> None:
        changes, committed, join = self.changes, self._committed, entities.join
        for entity, state in states:
            changed = changes.get(entity)
            first = committed.get(entity) if changed is None else changed[0]
            before = first if changed is None else changed[1]
            after = join(before, state)
            if after is not before and after is not None:
                changes[entity] = (first, after)

    def _look(self, entity: EntityKey) -> EntityState | None:
        changed = self.changes.get(entity)
        return self._committed.get(entity) if changed is None else changed[1]

    def _note(
        self, before: EntityState | None, change: Change, written: EntityState, unknown: Unseen
    ) -> None:
        self.conflicts += conflicts.between(before, change, written, unknown)

    def _take(
        self, entity: EntityKey, before: EntityState | None, after: EntityState | None
    ) -> None:
        if after is before or after is None:
            return
        first = self.changes.get(entity)
        self.changes[entity] = (first[0] if first else before, after)
