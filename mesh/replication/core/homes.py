"""Homes: entities that one region writes, and how a move fences the home before it.

The generation of such an entity has three parts: its life, which a creation after a delete begins;
the epoch of its home, which a move begins; and a mark of the home itself. Generations are compared
as numbers, and the higher one replaces the lower as a whole. So whatever a former home writes
without knowing of the move loses in every region, and of two regions that make themselves the home
at once one wins everywhere, with all that it wrote.

A move writes the entity anew, as its writer sees it, into the new generation. That asks for no
contract: fields that the writer does not know move as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from zlib import crc32

from mesh.replication.core import cells
from mesh.replication.core.cells import State
from mesh.replication.core.clocks import Origin
from mesh.replication.core.entities import EntityState
from mesh.replication.core.rules import dots, escrow
from mesh.replication.core.shapes import CellKey
from mesh.replication.core.wire import LENGTH, read_piece, read_varint

_MARK_BITS = 18
_EPOCH_BITS = 20
_LIFE_AT = _MARK_BITS + _EPOCH_BITS
MOST_LIVES = (1 << 24) - 1
"""How often an entity with a home may be created: a frame has no room for more."""


def life(generation: int) -> int:
    """Which life of an entity a generation belongs to. Without a home each is a life of its own."""
    return generation >> _LIFE_AT or generation


def created(before: int, home: str) -> int:
    """The generation of an entity that is created in its home, after one that ended at `before`."""
    return (life(before) + 1) << _LIFE_AT | 1 << _MARK_BITS | _mark(home)


def moved(before: int, home: str) -> int:
    """The generation of an entity that moves to a home."""
    if not before >> _LIFE_AT:
        return created(before, home)
    return ((before >> _MARK_BITS) + 1) << _MARK_BITS | _mark(home)


def _mark(home: str) -> int:
    return crc32(home.encode()) & (1 << _MARK_BITS) - 1


def moves(before: int, after: int) -> bool:
    """Whether the later of two generations of an entity is the same life in another home."""
    return before < after and 0 < before >> _LIFE_AT == after >> _LIFE_AT


def home_of(state: EntityState, path: bytes) -> str:
    """The home region of an entity, from the cell at a path; empty if it has none."""
    cell = state.cells.get((path, cells.FIRST))
    if cell is None or not cell[3]:
        return ""
    key, at = read_varint(cell[3], 0)
    return read_piece(cell[3], at)[0].decode(errors="replace") if key & 7 == LENGTH else ""


def anew(state: Mapping[CellKey, State], origin: Origin) -> dict[CellKey, bytes]:
    """The deltas by which an origin writes cells, as they are, into a generation without any."""
    return {key: _anew(key[1], cell, origin) for key, cell in state.items()}


def _anew(rule: int, cell: State, origin: Origin) -> bytes:
    match rule:
        case cells.LATEST | cells.FIRST:
            value: bytes = cell[3]
            return value
        case cells.MAX | cells.MIN:
            return cells.Max.delta(cell[0], cell[1])
        case cells.COUNTER:
            return cells.Counter.delta(None, origin, cells.Counter.total(cell))
        case cells.BOUNDED_COUNTER:
            kept = sum(row.kept for row in cell.values())
            made = cells.Escrow.total(cell) - kept
            return cells.escrow.encode({origin: escrow.Row(kept=kept, made=made)})
        case cells.SET:
            return cells.Set.delta(None, origin, cells.Set.elements(cell))
        case cells.MAP | cells.KEEP_BOTH:
            # Of values that stand under one name the last written is read, as it was before.
            entries = sorted((clock, dot, value) for dot, (clock, value) in cell[0].items())
            return dots.delta(None, origin, [value for _, _, value in entries], ())
        case _:
            return cells.RULES[rule].encode(cell)
