"""Entities: cells under one key, with generations and tombstones.

An entity's state is a join-semilattice too. The higher generation replaces the lower; within a
generation a delete wins and ends every cell; else cells join one by one. Of the generation's stamps
`created` is the least, `changed` the greatest (of its deletes, once there is one).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import NamedTuple

from mesh.replication.core.cells import LATEST, RULES, Stamp, State
from mesh.replication.core.errors import FormatUnknown
from mesh.replication.core.wire import (
    LENGTH,
    check_field,
    numbers,
    piece,
    read_piece,
    read_text,
    read_varint,
    tag,
    text,
    varint,
)

UPSERT, DELETE = 1, 2
"""What a change does, numbered as in isthmus.replication.v1.ChangeKind."""

CellKey = tuple[bytes, int]
"""A cell: the path of field numbers as consecutive varints, and its merge rule."""

EntityKey = tuple[str, str]
"""An entity: message type and key."""


class Changed(NamedTuple):
    """Who changed an entity, from where and when. Ordered by clock, ties by origin."""

    clock: int
    region: str
    incarnation: int
    actor: str


class Change(NamedTuple):
    """One change of one entity, as it stands in a frame; `cells` are (path, rule, delta).

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
    cells: tuple[tuple[bytes, int, bytes], ...]


class EntityState(NamedTuple):
    """An entity as stored, tombstones included. Never changed in place."""

    generation: int
    deleted: bool
    created: Stamp
    changed: Changed
    cells: Mapping[CellKey, State]


def join(one: EntityState | None, other: EntityState | None) -> EntityState | None:
    """The least state above both. Returns `one` itself if `other` adds nothing."""
    if one is None or other is None:
        return other if one is None else one
    if one.generation != other.generation:
        return one if one.generation > other.generation else other
    created = min(one.created, other.created)
    if one.deleted or other.deleted:
        deletes = [state.changed for state in (one, other) if state.deleted]
        return _settle(one, EntityState(one.generation, True, created, max(deletes), {}))
    if other.changed > one.changed and _replaces(other, one):
        return EntityState(one.generation, False, created, other.changed, other.cells)
    cells = dict(one.cells)
    grown = False
    for key, state in other.cells.items():
        mine = cells.get(key)
        merged = state if mine is None else RULES[key[1]].join(mine, state)
        if merged is not mine:
            cells[key] = merged
            grown = True
    changed = max(one.changed, other.changed)
    return _settle(
        one, EntityState(one.generation, False, created, changed, cells if grown else one.cells)
    )


def _replaces(new: EntityState, old: EntityState) -> bool:
    """Whether a newer state's cells stand for all of an older one's: the fast path.

    So it is with one change's LATEST cells that cover the old ones: no cell of a state is newer
    than its `changed`.
    """
    if not old.cells.keys() <= new.cells.keys():
        return False
    stamp = new.changed[:3]
    return all(key[1] == LATEST and cell[:3] == stamp for key, cell in new.cells.items())


def _settle(one: EntityState, merged: EntityState) -> EntityState:
    same_cells = merged.cells is one.cells or (merged.deleted and one.deleted)
    return one if same_cells and merged[:4] == one[:4] else merged


def from_change(change: Change) -> EntityState:
    """The state that a change alone stands for."""
    stamp = change.stamp
    cells: dict[CellKey, State] = {}
    deleted = change.kind == DELETE
    if not deleted:
        for path, number, delta in change.cells:
            cells[path, number] = RULES[number].from_delta(stamp, delta)
    return EntityState(change.generation, deleted, stamp, Changed(*stamp, change.actor), cells)


def received(change: Change) -> EntityState:
    """The state that another region's change alone stands for.

    Raises `ChainBroken` unless every value in it is a well-formed encoding of the field that its
    path names. That asks for no schema, so it holds for fields of a newer contract as well.
    """
    state = from_change(change)
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
    """The canonical bytes of a state: equal states have equal bytes, in every region."""
    changed = state.changed
    parts = [
        varint(state.generation),
        varint(state.deleted),
        varint(state.created.clock),
        text(state.created.region),
        varint(state.created.incarnation),
        varint(changed.clock),
        text(changed.region),
        varint(changed.incarnation),
        text(changed.actor),
    ]
    for key in sorted(state.cells):
        parts += (piece(key[0]), varint(key[1]), piece(RULES[key[1]].encode(state.cells[key])))
    return b"".join(parts)


def decode(data: bytes) -> EntityState:
    """The state of canonical bytes. Raises `FormatUnknown` and `ChainBroken`."""
    generation, at = read_varint(data, 0)
    deleted, at = read_varint(data, at)
    clock, at = read_varint(data, at)
    region, at = read_text(data, at)
    incarnation, at = read_varint(data, at)
    created = Stamp(clock, region, incarnation)
    clock, at = read_varint(data, at)
    region, at = read_text(data, at)
    incarnation, at = read_varint(data, at)
    actor, at = read_text(data, at)
    cells: dict[CellKey, State] = {}
    while at < len(data):
        path, at = read_piece(data, at)
        number, at = read_varint(data, at)
        cell, at = read_piece(data, at)
        if number not in RULES:
            raise FormatUnknown(f"merge rule {number} is not known to this version")
        cells[path, number] = RULES[number].decode(cell)
    changed = Changed(clock, region, incarnation, actor)
    return EntityState(generation, bool(deleted), created, changed, cells)


def fingerprint(entity: EntityKey, state: EntityState) -> int:
    """SHA-256 over the entity and its canonical bytes, as a number: what a digest adds up."""
    digest = hashlib.sha256(text(entity[0]) + text(entity[1]) + encode(state)).digest()
    return int.from_bytes(digest, "big")


def render(state: EntityState, rules: Mapping[bytes, int], key_field: bytes) -> bytes:
    """The entity as a serialized message, its key included; empty if it is deleted.

    `rules` says, for paths that the reader's contract knows, under which rule it reads them; of
    unknown paths the cell of the highest rule is taken. `key_field` is the encoded key field, and
    no cell stands for it.
    """
    if state.deleted:
        return b""
    key_number = read_varint(key_field, 0)[0] >> 3
    chosen: dict[bytes, int] = {}
    for path, number in sorted(state.cells):
        if rules.get(path, number) == number and numbers(path)[0] != key_number:
            chosen[path] = number
    leaves = _leaves(state, chosen)
    leaves.append(((key_number,), key_field))
    return _message(sorted(leaves), 0)


def _leaves(state: EntityState, chosen: Mapping[bytes, int]) -> list[tuple[tuple[int, ...], bytes]]:
    return [
        (numbers(path), RULES[number].render(numbers(path)[-1], state.cells[path, number]))
        for path, number in chosen.items()
    ]


def content(state: EntityState) -> bytes:
    """The cells of an entity as a serialized message, without its key and whatever the contract."""
    return _message(sorted(_leaves(state, dict(sorted(state.cells)))), 0)


def enclosed(path: bytes, value: bytes) -> bytes:
    """A cell's value as a serialized message of its entity that holds nothing else."""
    return _message([(numbers(path), value)], 0) if path else value


def _message(leaves: Iterable[tuple[tuple[int, ...], bytes]], depth: int) -> bytes:
    parts: list[bytes] = []
    for number, group in groupby(leaves, key=lambda leaf: leaf[0][depth]):
        inner = []
        for path, value in group:
            if len(path) == depth + 1:
                parts.append(value)
            else:
                inner.append((path, value))
        content = _message(inner, depth + 1)
        if content:
            parts.append(tag(number, LENGTH) + piece(content))
    return b"".join(parts)
