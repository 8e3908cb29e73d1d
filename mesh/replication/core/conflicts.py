"""Conflicts: what merging decided between values that were written at once.

Two writes are concurrent if neither writer had seen the other's. A frame tells what its writers had
seen of each origin: up to which position, and which clock its change has. Clocks grow along an
origin, so a stamp says by itself whether it was seen, and no cell needs to keep more than that.

Of two concurrent changes each region notes what it decides when the second one arrives, against the
value that it has by then. So a conflict is noted at least where one of the two was written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

from mesh.replication.core import entities, homes, rendering
from mesh.replication.core.cells import KEEP_BOTH, MAP, RULES, Stamp, Unseen, Version
from mesh.replication.core.clocks import Origin
from mesh.replication.core.entities import DELETE, Change, EntityKey, EntityState
from mesh.replication.core.frames import Frame
from mesh.replication.core.rules.rule import unseen_by
from mesh.replication.core.shapes import Packed

DELETED = 0
"""In the place of a rule: that a delete wins over what is written at once with it."""

MOVED = 255
"""In the place of a rule: that a move of an entity's home wins over what its former home writes."""


class Conflict(NamedTuple):
    """Two concurrent values of a field, and the rule that decided.

    `read` is what readers are given since, `other` what stood against it. Under DELETED and MOVED
    the path is empty, `read` has no value, and the other's is the message of the fields that were
    lost.
    """

    entity: EntityKey
    generation: int
    path: bytes
    rule: int
    read: Version
    other: Version


class Noted(Sequence[Conflict]):
    """The conflicts of a commit, in order: told apart when they are read.

    Where regions write the same entities at once there are more of them than anybody keeps.
    """

    def __init__(self) -> None:
        self._notes: list[Callable[[], Iterable[Conflict]]] = []
        self._all: list[Conflict] | None = None

    def add(self, note: Callable[[], Iterable[Conflict]]) -> None:
        """Takes a change that may conflict, and what tells."""
        self._notes.append(note)

    def newest(self, most: int) -> list[Conflict]:
        """The last ones, in order: at least so many if there are."""
        found: list[list[Conflict]] = []
        count = 0
        for note in reversed(self._notes):
            if count >= most:
                break
            found.append(list(note()))
            count += len(found[-1])
        return list(chain.from_iterable(reversed(found)))

    def _told(self) -> list[Conflict]:
        if self._all is None:
            self._all = [conflict for note in self._notes for conflict in note()]
        return self._all

    def __bool__(self) -> bool:
        """Whether there may be any."""
        return bool(self._notes)

    def __len__(self) -> int:
        return len(self._told())

    def __getitem__(self, at: Any) -> Any:
        return self._told()[at]


def unseen(frame: Frame, vector: Mapping[Origin, int]) -> Unseen:
    """Of what a region at a vector has, what a frame's writers had not seen."""
    seen, clocks = frame.dependencies, frame.dependency_clocks
    return {
        origin: clocks.get(origin, 0)
        for origin, sequence in vector.items()
        if sequence > seen.get(origin, 0) and origin != frame.origin
    }


def may_hold(frame: Frame, unknown: Unseen) -> bool:
    """Whether a frame's changes can conflict with anything: most frames cannot."""
    # With an etag a writer says itself what it had not read.
    return bool(unknown) or KEEP_BOTH in frame.rules or MAP in frame.rules


def quiet(before: EntityState | None, generation: int, unknown: Unseen) -> bool:
    """Whether a change of plain cells certainly conflicts with nothing: told without looking at it.

    It is so where its writer had seen all that is there.
    """
    if before is None:
        return True
    if before.generation != generation or before.deleted:
        return False
    layer = before.cells
    while isinstance(layer, Packed):
        if unseen_by(unknown, layer.changed[:3]):
            return False
        if layer.below is None:
            return True
        layer = layer.below
    return False


def of_change(
    before: EntityState | None, frame: Frame, at: int, unknown: Unseen
) -> Iterator[Conflict]:
    """As `between`, of one of a frame's changes."""
    change = frame.change(at)
    return between(before, change, entities.from_change(change), unknown)


def between(
    before: EntityState | None, change: Change, written: EntityState, unknown: Unseen
) -> Iterator[Conflict]:
    """The conflicts of a change with an entity as it is before it.

    `written` is the state that the change alone stands for.
    """
    if before is None:
        return
    entity, generation, stamp = change.entity, change.generation, change.stamp
    if generation > before.generation:
        moves = homes.moves(before.generation, generation)
        if moves and not before.deleted and _lost(before, unknown):
            other = Version(Stamp(*before.changed[:3]), rendering.content(before))
            yield Conflict(entity, before.generation, b"", MOVED, Version(stamp, b""), other)
    elif homes.moves(generation, before.generation):
        # Who sees a move writes no more under the home before it.
        other = Version(stamp, rendering.content(written))
        yield Conflict(entity, generation, b"", MOVED, Version(before.created, b""), other)
    elif change.kind == DELETE:
        if not before.deleted and generation == before.generation and _lost(before, unknown):
            other = Version(Stamp(*before.changed[:3]), rendering.content(before))
            yield Conflict(entity, generation, b"", DELETED, Version(stamp, b""), other)
    elif before.deleted or generation < before.generation:
        # Who sees a delete writes no more to what was deleted.
        ended = Stamp(*before.changed[:3]) if before.generation == generation else before.created
        other = Version(stamp, rendering.content(written))
        yield Conflict(entity, generation, b"", DELETED, Version(ended, b""), other)
    else:
        for key, cell in written.cells.items():
            mine = before.cells.get(key)
            if mine is None:
                continue
            for read, other in RULES[key[1]].decisions(mine, cell, stamp, unknown):
                yield Conflict(entity, generation, *key, read, other)


def _lost(state: EntityState, unknown: Unseen) -> bool:
    """Whether a state holds what the writer of a delete had not seen, as far as stamps tell."""
    stamps = (stamp for key, cell in state.cells.items() for stamp in RULES[key[1]].stamps(cell))
    return unseen_by(unknown, state.changed[:3]) or any(unseen_by(unknown, s) for s in stamps)
