"""Entities as the messages that their readers get, whatever contract these know."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import groupby

from mesh.replication.core.cells import RULES
from mesh.replication.core.entities import EntityState
from mesh.replication.core.errors import ChainBroken
from mesh.replication.core.shapes import (
    Packed,
    split,
)
from mesh.replication.core.wire import (
    LENGTH,
    numbers,
    piece,
    read_varint,
    tag,
)


def render(state: EntityState, rules: Mapping[bytes, int], key_field: bytes) -> bytes:
    """The entity as a serialized message, its key included; empty if it is deleted.

    `rules` says, for paths that the reader's contract knows, under which rule it reads them; of
    unknown paths the cell of the highest rule is taken, unless the contract knows the same field as
    a whole or in parts. `key_field` is the encoded key field, and no cell stands for it.
    """
    if state.deleted:
        return b""
    key_number = read_varint(key_field, 0)[0] >> 3
    if isinstance(state.cells, Packed) and state.cells.below is None:
        return _render_packed(state.cells, rules, key_number, key_field)
    chosen: dict[bytes, int] = {}
    for path, number in sorted(state.cells):
        if _reads(rules, path, number) and numbers(path)[0] != key_number:
            chosen[path] = number
    leaves = _leaves(state, chosen)
    leaves.append(((key_number,), key_field))
    return _message(sorted(leaves), 0)


def _render_packed(
    cells: Packed, rules: Mapping[bytes, int], key_number: int, key_field: bytes
) -> bytes:
    parts = []
    key_due = True
    for (path, rule), value in zip(cells.shape, split(cells.shape, cells.content), strict=True):
        number = numbers(path)[0]
        if key_due and number >= key_number:
            parts.append(key_field)
            key_due = False
        if number != key_number and _reads(rules, path, rule):
            parts.append(value)
    if key_due:
        parts.append(key_field)
    return b"".join(parts)


def _reads(rules: Mapping[bytes, int], path: bytes, rule: int) -> bool:
    """Whether a contract with these rules reads a cell, by its name or as an unknown field."""
    mine = rules.get(path)
    if mine is not None:
        return mine == rule
    way = numbers(path)
    return not any(
        way[: len(known)] == known or known[: len(way)] == way for known in map(numbers, rules)
    )


def _leaves(state: EntityState, chosen: Mapping[bytes, int]) -> list[tuple[tuple[int, ...], bytes]]:
    return [
        (numbers(path), RULES[number].render(numbers(path)[-1], state.cells[path, number]))
        for path, number in chosen.items()
    ]


def content(state: EntityState) -> bytes:
    """The cells of an entity as a serialized message, without its key and whatever the contract.

    A cell that changed by itself in memory, and cannot be read since, is left out.
    """
    leaves: list[tuple[tuple[int, ...], bytes]] = []
    for cell in sorted(state.cells):
        with suppress(ChainBroken):
            leaves += _leaves(state, dict([cell]))
    return _message(leaves, 0)


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
