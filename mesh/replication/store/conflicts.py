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
  read BLOB NOT NULL, other BLOB NOT NULL, before INTEGER NOT NULL
);
CREATE INDEX conflicts_by_size ON conflicts (before);
"""
KEPT = 1000
KEPT_BYTES = 4 << 20
"""How many conflicts of a group are kept, and how many bytes of values in them: the newest."""


def keep(cursor: sqlite3.Cursor, conflicts: Sequence[Conflict]) -> None:
    """Stores conflicts in the transaction of the changes that showed them; drops the oldest.

    `before` are the bytes of all values of the conflicts before one, so what goes is found at once.
    """
    last = cursor.execute(
        "SELECT before + length(read) + length(other) FROM conflicts ORDER BY place DESC LIMIT 1"
    ).fetchone()
    size = last[0] if last else 0
    rows = []
    for each in conflicts[-KEPT:]:
        read, other = _encode(each.read), _encode(each.other)
        rows.append((*each.entity, each.generation, each.path, each.rule, read, other, size))
        size += len(read) + len(other)
    cursor.executemany(
        "INSERT INTO conflicts (type, key, generation, path, rule, read, other, before)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        rows,
    )
    cursor.execute(
        "DELETE FROM conflicts WHERE place <= (SELECT max(place) FROM conflicts) - ?", (KEPT,)
    )
    cursor.execute("DELETE FROM conflicts WHERE before < ?", (size - KEPT_BYTES,))


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
