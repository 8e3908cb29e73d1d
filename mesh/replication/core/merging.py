"""Merging a batch of frames over what is committed, without touching that."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from operator import is_, itemgetter

from mesh.replication.core import conflicts, entities, rendering
from mesh.replication.core.cells import Unseen, Version
from mesh.replication.core.clocks import Vector
from mesh.replication.core.columns import Columns
from mesh.replication.core.conflicts import Conflict, Noted
from mesh.replication.core.entities import (
    CREATE,
    UPSERT,
    Change,
    EntityKey,
    EntityState,
)
from mesh.replication.core.frames import Frame
from mesh.replication.core.shapes import Packed, places


def _living(states: Iterable[EntityState | None]) -> int:
    there = list(filter(None, states))
    return len(there) - sum(map(_DELETED, there))


_DELETED: Callable[[EntityState], bool] = itemgetter(1)


def _firsts(
    changed: Sequence[EntityKey], befores: Sequence[EntityState | None]
) -> dict[EntityKey, EntityState | None]:
    """Of each entity what was before the first of its changes."""
    return dict(zip(reversed(changed), reversed(befores), strict=False))


class Merging:
    """What storing frames will change: of each entity the state before and after.

    `living` is by how many more entities will live. `idle` are entities with a change that has no
    effect on them as they are here.
    """

    def __init__(self, committed: Mapping[EntityKey, EntityState], vector: Vector) -> None:
        self.before: dict[EntityKey, EntityState | None] = {}
        self.after: dict[EntityKey, EntityState] = {}
        self.idle: set[EntityKey] = set()
        self.living = 0
        self.conflicts = Noted()
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
        columns = frame.columns
        self._vector[frame.origin] = frame.last
        if not watched and not self.after and self._as_seen(columns.entities, befores, afters):
            return
        look, take, join = self._look, self._take, entities.join
        kinds = columns.kinds
        for at, entity in enumerate(columns.entities):
            before = look(entity)
            if watched and not self._quiet(columns, at, before, unknown):
                self._note(before, frame, at, unknown)
            mine = afters[at]
            after = mine if before is befores[at] else join(before, mine)
            if after is mine and before is not befores[at] and kinds[at] == UPSERT:
                self._void(frame.change(at), before, mine)
            else:
                take(entity, before, after)

    def _as_seen(
        self,
        changed: Sequence[EntityKey],
        befores: Sequence[EntityState | None],
        afters: Sequence[EntityState],
    ) -> bool:
        """Takes what the writers made, if all that they saw is still as it was: mostly it is.

        A loop would cost several times as much as these columns do.
        """
        before = _firsts(changed, befores)
        if not all(map(is_, map(self._committed.get, before), before.values())):
            return False
        self.before = before
        self.after = dict(zip(changed, afters, strict=False))
        self.living = _living(self.after.values()) - _living(before.values())
        return True

    def received(self, frame: Frame) -> None:
        """A frame that came from elsewhere."""
        unknown = conflicts.unseen(frame, self._vector)
        watched = conflicts.may_hold(frame, unknown)
        if frame.plain:
            self._lay_over(frame, unknown if watched else None)
        else:
            look, take, join = self._look, self._take, entities.join
            kinds = frame.columns.kinds
            for at, entity in enumerate(frame.columns.entities):
                before = look(entity)
                state = frame.states[at]
                if watched:
                    self._note(before, frame, at, unknown)
                after = join(before, state)
                if after is state and kinds[at] == UPSERT:
                    self._void(frame.change(at), before, state)
                else:
                    take(entity, before, after)
        self._vector[frame.origin] = frame.last

    def _lay_over(self, frame: Frame, unknown: Unseen | None) -> None:
        """The same where all changes are plain: the way that most frames go, and so without calls.

        `unknown` is None if nothing can conflict.
        """
        columns = frame.columns
        befores, afters, committed = self.before, self.after, self._committed
        changeds = entities.changes_of(frame.origin, columns.clocks, columns.actors)
        standing = list(map(afters.get, columns.entities, map(committed.get, columns.entities)))
        states = entities.replacing(
            standing, columns.generations, changeds, columns.shapes, columns.contents
        )
        if unknown is None and all(states):
            # Of several changes of one entity the last one takes the place of the others.
            self.before = _firsts(columns.entities, standing) | befores
            afters.update(zip(columns.entities, states, strict=True))  # type: ignore[arg-type] # not None
            return
        for at, entity in enumerate(columns.entities):
            earlier = afters.get(entity)
            before = committed.get(entity) if earlier is None else earlier
            generation, changed = columns.generations[at], changeds[at]
            if unknown is not None and not conflicts.quiet(before, generation, unknown):
                self._note(before, frame, at, unknown)
            after = states[at]
            if after is None or before is not standing[at]:
                packed = Packed(columns.shapes[at], changed, columns.contents[at])
                after = entities.lay_over(before, generation, changed, packed)
                new = before is None or before[0] < generation
                if new and columns.kinds[at] == UPSERT:
                    self._void(frame.change(at), before, after)
                    continue
                if after is before:
                    self.idle.add(entity)
                    continue
                if before is None or before[1] != after[1]:
                    self.living += (before is None or before[1]) - after[1]
            if earlier is None:
                befores[entity] = before
            afters[entity] = after

    def _quiet(
        self, columns: Columns, at: int, before: EntityState | None, unknown: Unseen
    ) -> bool:
        plain = columns.kinds[at] in (CREATE, UPSERT) and places(columns.shapes[at]) is not None
        return plain and conflicts.quiet(before, columns.generations[at], unknown)

    def _void(self, change: Change, before: EntityState | None, written: EntityState) -> None:
        """What is written to a generation that ended, and of which nothing is left here."""
        if before is not None:
            self.idle.add(change.entity)
        other = Version(change.stamp, rendering.content(written))
        found = Conflict(
            change.entity, change.generation, b"", conflicts.DELETED, Version(None, b""), other
        )
        self.conflicts.add(lambda: (found,))

    def _look(self, entity: EntityKey) -> EntityState | None:
        found = self.after.get(entity)
        return self._committed.get(entity) if found is None else found

    def _note(self, before: EntityState | None, frame: Frame, at: int, unknown: Unseen) -> None:
        self.conflicts.add(partial(conflicts.of_change, before, frame, at, unknown))

    def _take(
        self, entity: EntityKey, before: EntityState | None, after: EntityState | None
    ) -> None:
        if after is before or after is None:
            if before is not None:
                self.idle.add(entity)
            return
        if entity not in self.after:
            self.before[entity] = before
        self.after[entity] = after
        self.living += (before is None or before.deleted) - after.deleted
