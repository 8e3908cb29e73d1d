"""The conflicts that merging decided, in the group's database: the newest of them."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from mesh.replication.core.cells import Stamp, Version
from mesh.replication.core.conflicts import Conflict
from mesh.replication.core.entities import EntityKey
from mesh.replication.core.wire import read_text, read_varint, text, varint

TABLES = """
CREATE TABLE conflicts (
  place INTEGER PRIMARY KEY AUTOINCREMENT, type TEXT NOT NULL, key TEXT NOT NULL,
  generation INTEGER NOT NULL, path BLOB NOT NULL, rule INTEGER NOT NULL,
  read BLOB NOT NULL, other BLOB NOT NULL
);
"""
KEPT = 1000
"""How many conflicts of a group are kept."""


def keep(cursor: sqlite3.Cursor, conflicts: Sequence[Conflict]) -> None:
    """Stores conflicts in the transaction of the changes that showed them; drops the oldest."""
    cursor.executemany(
        "INSERT INTO conflicts (type, key, generation, path, rule, read, other)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        [
            (*c.entity, c.generation, c.path, c.rule, _encode(c.read), _encode(c.other))
            for c in conflicts[-KEPT:]
        ],
    )
    cursor.execute(
        "DELETE FROM conflicts WHERE place <= (SELECT max(place) FROM conflicts) - ?", (KEPT,)
    )


def kept(reader: sqlite3.Connection, entity: EntityKey | None, most: int) -> list[Conflict]:
    """The conflicts of an entity, or of all, newest first."""
    rows = reader.execute(
        "SELECT type, key, generation, path, rule, read, other FROM conflicts"
        " WHERE ?1 IS NULL OR (type = ?1 AND key = ?2) ORDER BY place DESC LIMIT ?3",
        (*(entity or (None, None)), most),
    ).fetchall()
    return [
        Conflict((row[0], row[1]), row[2], row[3], row[4], _decode(row[5]), _decode(row[6]))
        for row in rows
    ]


def _encode(version: Version) -> bytes:
    if version.stamp is None:
        return varint(0) + version.value
    clock, region, incarnation = version.stamp
    return varint(clock) + text(region) + varint(incarnation) + version.value


def _decode(data: bytes) -> Version:
    clock, at = read_varint(data, 0)
    if not clock:
        return Version(None, data[at:])
    region, at = read_text(data, at)
    incarnation, at = read_varint(data, at)
    return Version(Stamp(clock, region, incarnation), data[at:])
