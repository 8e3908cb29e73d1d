"""What somebody had read of an entity, small enough to travel with it and come back with a write.

By cell, the dots that were there: so a write that comes later, perhaps from a form that an operator
had open for minutes, removes and replaces what was on that form, and nothing that came since.
"""

from __future__ import annotations

from mesh.replication.core.cells import RULES, Read
from mesh.replication.core.clocks import Origin
from mesh.replication.core.entities import EntityState
from mesh.replication.core.errors import ChainBroken, EtagDamaged
from mesh.replication.core.rules.dots import Dotted, read_dot, write_dot
from mesh.replication.core.shapes import CellKey
from mesh.replication.core.wire import piece, read_piece, read_varint, varint


def encode(state: EntityState) -> bytes:
    """The etag of an entity as it is."""
    parts = [varint(state.generation)]
    for (path, number), cell in sorted(state.cells.items()):
        if isinstance(RULES[number], Dotted):
            seen: Read = cell[1]
            parts += (piece(path), varint(number), varint(len(seen)))
            parts += (write_dot((*origin, count)) for origin, count in sorted(seen.items()))
    return b"".join(parts)


def read(etag: bytes | None, state: EntityState, cell: CellKey) -> Read | None:
    """What of a cell somebody had read; None, without an etag, is all of it.

    Nothing, if the etag is of an earlier generation. Raises `EtagDamaged`.
    """
    if etag is None:
        return None
    found: dict[CellKey, Read] = {}
    try:
        generation, at = read_varint(etag, 0)
        while at < len(etag):
            path, at = read_piece(etag, at)
            number, at = read_varint(etag, at)
            count, at = read_varint(etag, at)
            seen = {}
            for _ in range(count):
                dot, at = read_dot(etag, at)
                seen[Origin(dot[0], dot[1])] = dot[2]
            found[path, number] = seen
    except ChainBroken:
        raise EtagDamaged("it is no etag: send back what was read with the entity") from None
    return found.get(cell, {}) if generation == state.generation else {}
