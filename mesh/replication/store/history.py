"""The changes of entities whose contract keeps history, in the group's database."""

from __future__ import annotations

import sqlite3
from collections.abc import Container, Iterable, Iterator

from mesh.replication.core.cells import Stamp
from mesh.replication.core.entities import EntityKey
from mesh.replication.core.frames import Frame
from mesh.replication.core.wire import piece, read_piece
from mesh.replication.store import HistoryRow

TABLES = """
CREATE TABLE history (
  type TEXT NOT NULL, key TEXT NOT NULL, clock INTEGER NOT NULL, region TEXT NOT NULL,
  incarnation INTEGER NOT NULL, generation INTEGER NOT NULL, kind INTEGER NOT NULL,
  actor TEXT NOT NULL, trace_parent TEXT NOT NULL, request_id TEXT NOT NULL, paths BLOB NOT NULL,
  PRIMARY KEY (type, key, clock, region, incarnation)
) WITHOUT ROWID;
"""


def keep(cursor: sqlite3.Cursor, frames: Iterable[Frame], types: Container[str]) -> None:
    """Stores the changes in frames of entities of some message types."""
    cursor.executemany(
        "INSERT OR REPLACE INTO history VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        _rows(frames, types),
    )


def _rows(frames: Iterable[Frame], types: Container[str]) -> Iterator[tuple[object, ...]]:
    for frame in frames:
        for change in frame.changes:
            if change.entity[0] in types:
                yield (
                    *change.entity,
                    *change.stamp,
                    change.generation,
                    change.kind,
                    change.actor,
                    change.trace_parent,
                    change.request_id,
                    b"".join(piece(path) for path, _ in change.shape),
                )


def kept(reader: sqlite3.Connection, entity: EntityKey, most: int) -> list[HistoryRow]:
    """An entity's changes, newest first."""
    rows = reader.execute(
        "SELECT clock, region, incarnation, generation, kind, actor, trace_parent,"
        " request_id, paths FROM history WHERE type = ? AND key = ?"
        " ORDER BY clock DESC, region DESC, incarnation DESC LIMIT ?",
        (*entity, most),
    ).fetchall()
    return [
        HistoryRow(Stamp(*row[:3]), row[3], row[4], row[5], row[6], row[7], _paths(row[8]))
        for row in rows
    ]


def _paths(data: bytes) -> tuple[bytes, ...]:
    found = []
    at = 0
    while at < len(data):
        path, at = read_piece(data, at)
        found.append(path)
    return tuple(found)
