"""Entities: cells under one key, with generations and tombstones.

An entity's state is a join-semilattice too. The higher generation replaces the lower; within a
generation a delete wins and ends every cell; else cells join one by one. Of the generation's stamps
`created` is the least, `changed` the greatest (of its deletes, once there is one).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container, Iterable, Mapping
from functools import lru_cache, partial
from itertools import repeat
from typing import Any, NamedTuple

from mesh.replication.core.cells import LATEST, RULES, Stamp, State, parked
from mesh.replication.core.clocks import Origin
from mesh.replication.core.errors import ChainBroken
from mesh.replication.core.rules.parked import Kept, fold
from mesh.replication.core.shapes import (
    DEEPEST,
    CellKey,
    Packed,
    Shape,
    interned,
    merge_layers,
    order,
    places,
    split,
    tidy,
)
from mesh.replication.core.wire import (
    check_field,
    check_message,
    numbers,
    piece,
    read_piece,
    read_text,
    read_varint,
    text,
    varint,
)

UPSERT, DELETE, CREATE = 1, 2, 3
"""What a change does, numbered as in isthmus.replication.v1.ChangeKind."""

EntityKey = tuple[str, str]
"""An entity: message type and key."""


class Changed(NamedTuple):
    """Who changed an entity, from where and when. Ordered by clock, ties by origin."""

    clock: int
    region: str
    incarnation: int
    actor: str


class Change(NamedTuple):
    """One change of one entity, as it stands in a frame; `content` brings the cells of `shape`.

    `writes_left` counts the changes that follow in the same write.
    """

    entity: EntityKey
    generation: int
    kind: int
    stamp: Stamp
    actor: str
    trace_parent: str
    request_id: str
    writes_left: int
    shape: Shape
    content: bytes


class EntityState(NamedTuple):
    """An entity as stored, tombstones included. Never changed in place."""

    generation: int
    deleted: bool
    created: Stamp
    changed: Changed
    cells: Mapping[CellKey, State]


# Half the price of the classes' own constructors, where a hundred thousand are made a second.
new_stamp: Callable[[Iterable[object]], Stamp] = partial(tuple.__new__, Stamp)
new_changed: Callable[[Iterable[object]], Changed] = partial(tuple.__new__, Changed)
new_state: Callable[[Iterable[object]], EntityState] = partial(tuple.__new__, EntityState)


def join(one: EntityState | None, other: EntityState | None) -> EntityState | None:
    """The least state above both. Returns `one` itself if `other` adds nothing."""
    if one is None or other is None:
        return other if one is None else one
    if one.generation != other.generation:
        return one if one.generation > other.generation else other
    created = one.created if one.created <= other.created else other.created
    if one.deleted or other.deleted:
        deletes = [state.changed for state in (one, other) if state.deleted]
        return _settle(one, EntityState(one.generation, True, created, max(deletes), {}))
    newer = other.changed > one.changed
    if newer:
        mine, cells = one.cells, other.cells
        # The fast path: where a newer change is of plain LATEST cells, they win over whatever is in
        # their places, for no cell of a state is newer than its `changed`.
        if isinstance(cells, Packed) and cells.changed == other.changed and cells.below is None:
            over = cells.over(mine)
            if over is not None:
                return new_state((one.generation, False, created, other.changed, over))
    cells = _join_cells(one.cells, other.cells)
    changed = other.changed if newer else one.changed
    return _settle(one, EntityState(one.generation, False, created, changed, cells))


def lay_over(
    before: EntityState | None, generation: int, changed: Changed, cells: Packed
) -> EntityState:
    """What a change of plain cells makes of a state: its `join` with the state of the change."""
    if (
        before is not None
        and before[0] == generation
        and not before[1]
        and changed > before[3]
        and (over := cells.over(before[4])) is not None
    ):
        # All of a generation's stamps are between `created` and `changed`.
        return new_state((generation, False, before[2], changed, over))
    alone = new_state((generation, False, new_stamp(changed[:3]), changed, cells))
    joined = join(before, alone)
    return alone if joined is None else joined


def replacing(
    befores: Iterable[EntityState | None],
    generations: Iterable[int],
    changeds: Iterable[Changed],
    shapes: Iterable[Shape],
    contents: Iterable[bytes],
) -> list[EntityState | None]:
    """As `lay_over`, of many, where each takes the place of the last change and of nothing else.

    None for all others: which are few where the same cells are written again and again.
    """
    return [
        new_state(
            (
                generation,
                False,
                before[2],
                changed,
                Packed(shape, changed, content, cells.below),
            )
        )
        if before is not None
        and type(cells := before[4]) is Packed
        and cells.shape is shape
        and before[0] == generation
        and changed > before[3]
        else None
        for before, generation, changed, shape, content in zip(
            befores, generations, changeds, shapes, contents, strict=True
        )
    ]


def changes_of(origin: Origin, clocks: Iterable[int], actors: Iterable[str]) -> list[Changed]:
    """Who made some changes of one origin, and when."""
    region, incarnation = origin
    return list(map(new_changed, zip(clocks, repeat(region), repeat(incarnation), actors)))


def _join_cells(
    one: Mapping[CellKey, State], other: Mapping[CellKey, State]
) -> Mapping[CellKey, State]:
    if isinstance(one, Packed) and isinstance(other, Packed):
        return merge_layers(one, other)
    cells = dict(one.items())
    grown = False
    for key, state in other.items():
        mine = cells.get(key)
        if mine is None or (key[1] == LATEST and state > mine):
            merged = state
        else:
            merged = mine if key[1] == LATEST else RULES[key[1]].join(mine, state)
        if merged is not mine:
            cells[key] = merged
            grown = True
    return cells if grown else one


def _settle(one: EntityState, merged: EntityState) -> EntityState:
    same_cells = merged.cells is one.cells or (merged.deleted and one.deleted)
    return one if same_cells and merged[:4] == one[:4] else merged


def from_change(change: Change) -> EntityState:
    """The state that a change alone stands for. Raises `ChainBroken` if it is damaged."""
    stamp = change.stamp
    changed = Changed(*stamp, change.actor)
    if change.kind == DELETE:
        return EntityState(change.generation, True, stamp, changed, {})
    cells: Mapping[CellKey, State]
    if places(change.shape) is not None:
        cells = Packed(change.shape, changed, change.content)
    else:
        deltas = split(change.shape, change.content)
        cells = {
            key: RULES[key[1]].from_delta(stamp, delta)
            for key, delta in zip(change.shape, deltas, strict=True)
        }
    return EntityState(change.generation, False, stamp, changed, cells)


def received(change: Change) -> EntityState:
    """The state that another region's change alone stands for.

    Raises `ChainBroken` unless it is well framed: every value a well-formed encoding of the field
    that its path names, and under a plain shape the whole a well-formed message. That asks for no
    schema, so it holds for fields of a newer contract as well.
    """
    state = from_change(change)
    if isinstance(state.cells, Packed):
        check_message(change.content)
        return state
    for (path, number), cell in state.cells.items():
        field = numbers(path)[-1]
        for value in RULES[number].values(cell):
            check_field(value, field)
    return state


def apply(state: EntityState | None, change: Change) -> EntityState:
    """The state after a change. Returns `state` itself if the change adds nothing."""
    merged = join(state, from_change(change))
    assert merged is not None  # noqa: S101 # joining with a state gives a state
    return merged


def encode(state: EntityState) -> bytes:
    """The canonical bytes of a state: equal states have equal bytes, in every region.

    LATEST fields of the entity itself that one change wrote stand together, as its content.
    """
    generation, deleted, created, changed, cells = state
    parts = [
        varint(generation),
        varint(deleted),
        _stamp(created),
        _stamp(changed),
        _text(changed.actor),
    ]
    if isinstance(cells, Packed) and cells.below is None:
        content = tidy(cells.shape, cells.content)
        parts += (varint(1), *_run(changed, cells.changed, cells.shape, content))
        return b"".join(parts)
    runs, others = _runs(cells)
    parts.append(varint(len(runs)))
    for stamp, members in sorted(runs.items()):
        shape = tuple(key for key, _ in members)
        parts += _run(changed, stamp, shape, b"".join(value for _, value in members))
    for key in others:
        path, rule = key
        name = varint(rule) if rule > 0 else varint(0) + varint(-rule)
        parts += (piece(path), name, piece(RULES[rule].encode(cells[key])))
    return b"".join(parts)


_Stamp = tuple[int, str, int]


def _runs(
    cells: Mapping[CellKey, State],
) -> tuple[Mapping[_Stamp, Iterable[tuple[CellKey, bytes]]], list[CellKey]]:
    """The plain LATEST cells by their stamp, and the keys of all others; each in order."""
    runs: dict[_Stamp, list[tuple[CellKey, bytes]]] = {}
    others = []
    for key, cell in sorted(cells.items(), key=_order_of_item):
        if key[1] == LATEST and len(numbers(key[0])) == 1:
            runs.setdefault(cell[:3], []).append((key, cell[3]))
        else:
            others.append(key)
    return runs, others


def _run(changed: Changed, stamp: tuple[Any, ...], shape: Shape, content: bytes) -> Iterable[bytes]:
    """The bytes of cells that one change wrote: mostly it is the last one, and says no stamp."""
    last = stamp[:3] == changed[:3]
    return (b"\x01" if last else b"\x00" + _stamp(stamp)), _shape(shape), piece(content)


def _order_of_item(item: tuple[CellKey, State]) -> tuple[tuple[int, ...], int]:
    return order(item[0])


def _stamp(stamp: tuple[Any, ...]) -> bytes:
    return int.to_bytes(stamp[0], 8, "big") + _origin(stamp[1], stamp[2])


@lru_cache(maxsize=1024)
def _origin(region: str, incarnation: int) -> bytes:
    return text(region) + varint(incarnation)


@lru_cache(maxsize=1024)
def _text(value: str) -> bytes:
    return text(value)


@lru_cache(maxsize=4096)
def _shape(shape: Shape) -> bytes:
    return varint(len(shape)) + b"".join(piece(path) for path, _ in shape)


def decode(data: bytes, rules: Container[int] = RULES) -> EntityState:
    """The state of canonical bytes; `rules` are those that are known. Raises `ChainBroken`."""
    return read(data, rules)[0]


def read(data: bytes, rules: Container[int]) -> tuple[EntityState, bool]:
    """As `decode`; and whether anything is parked in it, or was until now."""
    generation, at = read_varint(data, 0)
    deleted, at = read_varint(data, at)
    created, at = _read_stamp(data, at)
    stamp, at = _read_stamp(data, at)
    actor, at = read_text(data, at)
    changed = Changed(*stamp, actor)
    count, at = read_varint(data, at)
    packed: Packed | None = None
    for _ in range(count):
        last, at = read_varint(data, at)
        wrote: tuple[int, str, int, str] = changed
        if not last:
            stamp, at = _read_stamp(data, at)
            wrote = (*stamp, "")
        shape, at = _read_shape(data, at)
        content, at = read_piece(data, at)
        packed = Packed(shape, wrote, content, packed)
    if packed is not None and at == len(data) and packed.depth <= DEEPEST:
        return EntityState(generation, bool(deleted), created, changed, packed), False
    cells: dict[CellKey, State] = {} if packed is None else packed.cells()
    unread = False
    while at < len(data):
        path, at = read_piece(data, at)
        number, at = read_varint(data, at)
        if number in rules:
            cell, at = read_piece(data, at)
            _put(cells, (path, number), RULES[number].decode(cell))
            continue
        unread = True
        if number:  # a version that knew the rule left its state
            cell, at = read_piece(data, at)
            _put(cells, (path, -number), Kept(frozenset({cell})))
        else:
            number, at = read_varint(data, at)
            cell, at = read_piece(data, at)
            _resume(cells, (path, number), parked.decode(cell), rules)
    return EntityState(generation, bool(deleted), created, changed, cells), unread


def _put(cells: dict[CellKey, State], key: CellKey, state: State) -> None:
    mine = cells.get(key)
    cells[key] = state if mine is None else RULES[key[1]].join(mine, state)


def _resume(cells: dict[CellKey, State], key: CellKey, kept: Kept, rules: Container[int]) -> None:
    """Takes what was parked under a rule: if that is known by now, as the rule's own."""
    path, number = key
    if number in rules:
        state, kept = fold(kept, RULES[number], numbers(path)[-1])
        if state is not None:
            _put(cells, key, state)
    if kept.states or kept.deltas:
        _put(cells, (path, -number), kept)


def _read_stamp(data: bytes, at: int) -> tuple[Stamp, int]:
    clock, at = int.from_bytes(data[at : at + 8], "big"), at + 8
    region, at = read_text(data, at)
    incarnation, at = read_varint(data, at)
    return Stamp(clock, region, incarnation), at


def _read_shape(data: bytes, at: int) -> tuple[Shape, int]:
    count, at = read_varint(data, at)
    shape = []
    for _ in range(count):
        path, at = read_piece(data, at)
        shape.append((path, LATEST))
    found = interned(tuple(shape))
    if places(found) is None:
        raise ChainBroken("a state is damaged: fields in it are out of order")
    return found, at


def fingerprint(entity: EntityKey, state: EntityState) -> int:
    """SHA-256 over the entity and its canonical bytes, as a number: what a digest adds up."""
    return int.from_bytes(checksum(entity, encode(state)), "big")


UNPROVEN = bytes(32)
"""Stored in the place of a checksum: that what is stored was made of what is damaged."""


def checksum(entity: EntityKey, canonical: bytes) -> bytes:
    """SHA-256 over the entity and its canonical bytes: 32 bytes."""
    return hashlib.sha256(text(entity[0]) + text(entity[1]) + canonical).digest()
