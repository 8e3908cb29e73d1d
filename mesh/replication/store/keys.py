"""The keys that origins sign with, in the group's database: as the statements introduce them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from mesh.replication.core.signatures import KEY_ID_BYTES, Key

TABLES = """
CREATE TABLE keys (id BLOB PRIMARY KEY, statement BLOB NOT NULL) WITHOUT ROWID;
"""

KEPT = 64
"""So many keys are kept in any case: each process makes one, and one more each half day."""


def keep(cursor: sqlite3.Cursor, keys: Iterable[Key]) -> None:
    """Stores keys that were believed."""
    cursor.executemany(
        "INSERT OR REPLACE INTO keys VALUES (?, ?)", [(key.id, key.statement) for key in keys]
    )


def trim(cursor: sqlite3.Cursor) -> None:
    """Forgets keys that signed nothing which is held, once there are many.

    To be called before anything is loaded: a key that is known is not stored again.
    """
    if cursor.execute("SELECT count(*) FROM keys").fetchone()[0] > KEPT:
        cursor.execute(
            "DELETE FROM keys WHERE id NOT IN (SELECT substr(signature, 1, ?1) FROM positions"
            " UNION SELECT substr(signature, 1, ?1) FROM frames)",
            (KEY_ID_BYTES,),
        )


def load(reader: sqlite3.Connection) -> list[bytes]:
    """The statements of all keys."""
    return [row[0] for row in reader.execute("SELECT statement FROM keys")]
