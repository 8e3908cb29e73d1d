"""The keys that origins sign with, in the group's database: as the statements introduce them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from mesh.replication.core.signatures import Key

TABLES = """
CREATE TABLE keys (id BLOB PRIMARY KEY, statement BLOB NOT NULL) WITHOUT ROWID;
"""


def keep(cursor: sqlite3.Cursor, keys: Iterable[Key]) -> None:
    """Stores keys that were believed."""
    cursor.executemany(
        "INSERT OR IGNORE INTO keys VALUES (?, ?)", [(key.id, key.statement) for key in keys]
    )


def load(reader: sqlite3.Connection) -> list[bytes]:
    """The statements of all keys."""
    return [row[0] for row in reader.execute("SELECT statement FROM keys")]
