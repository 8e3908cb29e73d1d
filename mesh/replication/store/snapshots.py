"""A snapshot that comes in, in the group's database: staged in pieces, installed as a whole."""

from __future__ import annotations

import sqlite3

from mesh.replication.core import snapshots
from mesh.replication.core.snapshots import Install, Piece, Staged, Staging
from mesh.replication.store.states import put, row_of, state_row, unproven

TABLES = """
CREATE TABLE staged (
  number INTEGER PRIMARY KEY, body BLOB NOT NULL, hash BLOB NOT NULL, last INTEGER NOT NULL
);
"""
_HEADER = "staged_header"


def stage(cursor: sqlite3.Cursor, staging: Staging) -> None:
    """Does to the staged snapshot what a commit says, in its transaction."""
    if staging.header is not None:
        cursor.execute("DELETE FROM staged")
        cursor.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (_HEADER, staging.header))
    cursor.executemany("INSERT INTO staged VALUES (?, ?, ?, ?)", staging.pieces)
    if staging.install is not None:
        _install(cursor, staging.install)
        cursor.execute("DELETE FROM staged")
        cursor.execute("DELETE FROM meta WHERE name = ?", (_HEADER,))


def _install(cursor: sqlite3.Cursor, install: Install) -> None:
    pieces = cursor.connection.execute("SELECT body FROM staged ORDER BY number")
    for (body,) in pieces:
        put(
            cursor,
            (
                row_of(entity, canonical)
                for entity, canonical in snapshots.rows(body)
                if entity not in install.kept
            ),
        )
    rows = (state_row(*each) for each in install.states.items())
    put(cursor, (unproven(row) if row[1:3] in install.unproven else row for row in rows))
    cursor.executemany(
        "INSERT OR IGNORE INTO receipts VALUES (?, ?, ?, ?, ?, ?, ?)", install.receipts
    )
    cursor.executemany(
        "INSERT INTO positions"
        " (region, incarnation, sequence, hash, clock, signature, flushed, flushed_hash)"
        " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?3, ?4) ON CONFLICT DO UPDATE SET sequence = ?3,"
        " hash = ?4, clock = ?5, signature = ?6, flushed = ?3, flushed_hash = ?4"
        # What is here beyond the snapshot may not be flushed.
        " WHERE sequence < ?3",
        [(*origin, *position) for origin, position in install.positions.items()],
    )


def staged(reader: sqlite3.Connection) -> Staged | None:
    """The snapshot that had come in part."""
    header = reader.execute("SELECT value FROM meta WHERE name = ?", (_HEADER,)).fetchone()
    if header is None:
        return None
    rows = reader.execute("SELECT number, body, hash, last FROM staged ORDER BY number")
    return Staged(header[0], [Piece(row[0], row[1], row[2], bool(row[3])) for row in rows])
