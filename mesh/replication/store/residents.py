"""The section of HOME_REGION cells in the group's database, and which fields it is for.

The fields are remembered for good: also under a contract that does not know one, or would send it,
it stays where it is.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Container, Iterable

from mesh.replication.core import entities
from mesh.replication.core.cells import RULES
from mesh.replication.core.entities import EntityKey, EntityState
from mesh.replication.core.errors import JournalDamaged, LinkFault
from mesh.replication.core.residents import Settled
from mesh.replication.store import ResidentField

TABLES = """
CREATE TABLE residents (
  type TEXT NOT NULL, key TEXT NOT NULL, state BLOB NOT NULL, PRIMARY KEY (type, key)
) WITHOUT ROWID;
CREATE TABLE resident_fields (
  type TEXT NOT NULL, path BLOB NOT NULL, PRIMARY KEY (type, path)
) WITHOUT ROWID;
"""


def keep(cursor: sqlite3.Cursor, settled: Settled) -> None:
    """Stores a batch's part, in the transaction of its frames."""
    cursor.executemany(
        "INSERT OR REPLACE INTO residents VALUES (?, ?, ?)",
        [(*e, entities.encode(state)) for e, state in settled.items() if state is not None],
    )
    cursor.executemany(
        "DELETE FROM residents WHERE type = ? AND key = ?",
        [entity for entity, state in settled.items() if state is None],
    )


def load(reader: sqlite3.Connection, rules: Container[int] = RULES) -> dict[EntityKey, EntityState]:
    """The section as it was stored, under the `rules` that are known. Raises `JournalDamaged`."""
    found = {}
    try:
        for type, key, state in reader.execute("SELECT type, key, state FROM residents"):
            found[type, key] = entities.decode(state, rules)
    except LinkFault as fault:
        raise JournalDamaged(f"a stored HOME_REGION cell is damaged: {fault}") from None
    return found


def remember(cursor: sqlite3.Cursor, declared: Iterable[ResidentField]) -> frozenset[ResidentField]:
    """All fields that any contract declared here so far, these included."""
    cursor.executemany("INSERT OR IGNORE INTO resident_fields VALUES (?, ?)", list(declared))
    return frozenset(cursor.execute("SELECT type, path FROM resident_fields").fetchall())
