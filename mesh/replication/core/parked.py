"""Changes that this version cannot read: kept and passed on, and done by the first one that can.

A cell under an unknown merge rule is parked in its entity: its key has the rule's number below
zero. A change of an unknown kind may do anything to its entity, so the whole of it is parked beside
that: as a cell of an entity of no type, whose key names the real one. Either way the change counts
as applied: what depends on it goes on, and its frame is forwarded as it came.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from mesh.replication.core import entities
from mesh.replication.core.cells import RULES, Stamp
from mesh.replication.core.clocks import milliseconds
from mesh.replication.core.entities import CREATE, DELETE, UPSERT, Change, EntityKey, EntityState
from mesh.replication.core.errors import ChainBroken
from mesh.replication.core.rules.parked import Kept
from mesh.replication.core.shapes import Shape, pack
from mesh.replication.core.wire import (
    numbers,
    piece,
    read_piece,
    read_text,
    read_varint,
    text,
    varint,
)

NO_TYPE = ""
"""The message type of the entities that hold changes of unknown kinds."""

KINDS = 1 << 31
"""In the place of a rule: the cell holds whole changes, and its path is their kind."""


class Known(NamedTuple):
    """The merge rules and the kinds of changes that a version reads."""

    rules: frozenset[int] = frozenset(RULES)
    kinds: frozenset[int] = frozenset({UPSERT, DELETE, CREATE})


KNOWN = Known()
"""Those of this version."""


class Unread(NamedTuple):
    """What is parked under one rule at one path of a message type.

    `entities` counts those that it is in, `entity` is the first of them; `changes` counts what is
    waiting. `since_ms` is when the first of it was written (milliseconds since 1970; None if only
    states are left, which keep no times). For a kind of change, the path is empty and `rule` is 0.
    """

    type: str
    path: bytes
    rule: int
    kind: int
    changes: int
    entities: int
    entity: str
    since_ms: int | None

    @property
    def numbers(self) -> tuple[int, ...]:
        """The path's field numbers."""
        return numbers(self.path)


def parked_shape(shape: Shape, known: Known) -> Shape:
    """A shape as a version takes it that does not know all rules in it."""
    if all(rule in known.rules for _, rule in shape):
        return shape
    return tuple((path, rule if rule in known.rules else -rule) for path, rule in shape)


def beside_of(entity: EntityKey) -> EntityKey:
    """What holds the changes of unknown kinds of an entity."""
    return NO_TYPE, f"{entity[0]}/{entity[1]}"


def beside(change: Change) -> Change:
    """What stands for a change of an unknown kind."""
    parts = [varint(change.generation), text(change.actor), varint(len(change.shape))]
    for path, rule in change.shape:
        parts += (piece(path), varint(abs(rule)))
    shape = ((varint(change.kind), -KINDS),)
    return change._replace(
        entity=beside_of(change.entity),
        generation=1,
        kind=CREATE,
        shape=shape,
        content=pack(shape, [b"".join((*parts, change.content))]),
    )


def _change(entity: EntityKey, kind: int, stamp: Stamp, data: bytes, known: Known) -> Change:
    """The change that `beside` was given. Raises `ChainBroken` if it is damaged."""
    generation, at = read_varint(data, 0)
    actor, at = read_text(data, at)
    count, at = read_varint(data, at)
    shape = []
    for _ in range(count):
        path, at = read_piece(data, at)
        rule, at = read_varint(data, at)
        shape.append((path, rule))
    type, _, key = entity[1].partition("/")
    covered = parked_shape(tuple(shape), known)
    return Change((type, key), generation, kind, stamp, actor, "", "", 0, covered, data[at:])


def holds(state: EntityState) -> bool:
    """Whether something is parked in an entity."""
    return any(rule < 0 for _, rule in state.cells)


def resume(
    states: dict[EntityKey, EntityState], known: Known
) -> tuple[set[EntityKey], set[EntityKey]]:
    """Does the changes whose kind is known by now. Returns what they changed, and what is gone."""
    changed, gone = set(), set()
    for entity in [each for each in states if each[0] == NO_TYPE]:
        left = dict(states[entity].cells)
        for (path, rule), kept in states[entity].cells.items():
            if rule != -KINDS or numbers(path)[0] not in known.kinds:
                continue
            waiting, unreadable = _resumed(states, entity, numbers(path)[0], kept, known)
            changed |= waiting
            if unreadable.deltas:
                left[path, rule] = unreadable
            else:
                del left[path, rule]
        if not left:
            del states[entity]
            gone.add(entity)
        elif left != states[entity].cells:
            states[entity] = states[entity]._replace(cells=left)
            changed.add(entity)
    return changed, gone


def _resumed(
    states: dict[EntityKey, EntityState], entity: EntityKey, kind: int, kept: Kept, known: Known
) -> tuple[set[EntityKey], Kept]:
    changed, left = set(), {}
    for stamp, data in sorted(kept.deltas.items()):
        try:
            change = _change(entity, kind, stamp, data, known)
            state = entities.join(states.get(change.entity), entities.received(change))
        except ChainBroken:
            left[stamp] = data
            continue
        assert state is not None  # noqa: S101 # joining with a state gives a state
        states[change.entity] = state
        changed.add(change.entity)
    return changed, Kept(deltas=left)


def unread(states: Mapping[EntityKey, EntityState], among: Iterable[EntityKey]) -> Iterator[Unread]:
    """What is parked in some entities, by type, path and rule."""
    found: dict[tuple[str, bytes, int], Unread] = {}
    for entity in sorted(among):
        state = states.get(entity)
        for (path, rule), kept in state.cells.items() if state is not None else ():
            if rule < 0:
                each = _unread(entity, path, -rule, kept)
                at = (each.type, path, rule)
                found[at] = _added(found[at], each) if at in found else each
    return iter(found.values())


def _unread(entity: EntityKey, path: bytes, rule: int, kept: Kept) -> Unread:
    type, key, kind = *entity, 0
    if rule == KINDS:
        type, _, key = entity[1].partition("/")
        path, rule, kind = b"", 0, numbers(path)[0]
    since = min((milliseconds(stamp.clock) for stamp in kept.deltas), default=None)
    waiting = len(kept.deltas) + len(kept.states)
    return Unread(type, path, rule, kind, waiting, 1, key, since)


def _added(one: Unread, other: Unread) -> Unread:
    times = [each.since_ms for each in (one, other) if each.since_ms is not None]
    return one._replace(
        changes=one.changes + other.changes,
        entities=one.entities + other.entities,
        since_ms=min(times, default=None),
    )
