"""Operation ids in the group's database: results of what was done, and what others were granted."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from mesh.replication.core.grants import Operation
from mesh.replication.core.receipts import KEPT_MS, Receipt, ReceiptKey

TABLES = """
CREATE TABLE receipts (
  actor TEXT NOT NULL, method TEXT NOT NULL, request_id TEXT NOT NULL, digest BLOB NOT NULL,
  type TEXT NOT NULL, response BLOB NOT NULL, time_ms INTEGER NOT NULL,
  PRIMARY KEY (actor, method, request_id)
) WITHOUT ROWID;
CREATE INDEX receipts_by_time ON receipts (time_ms);
CREATE TABLE fences (
  actor TEXT NOT NULL, method TEXT NOT NULL, request_id TEXT NOT NULL, time_ms INTEGER NOT NULL,
  PRIMARY KEY (actor, method, request_id)
) WITHOUT ROWID;
"""
_ONE = "actor = ? AND method = ? AND request_id = ?"


def keep(cursor: sqlite3.Cursor, own: Iterable[Receipt], others: list[Receipt]) -> list[Receipt]:
    """Stores what was done here, and what frames bring; what was answered here stands.

    Returns those of the others of whose operation another result is here: two regions did it.
    """
    cursor.executemany("INSERT OR REPLACE INTO receipts VALUES (?, ?, ?, ?, ?, ?, ?)", own)
    cursor.executemany("INSERT OR IGNORE INTO receipts VALUES (?, ?, ?, ?, ?, ?, ?)", others)
    if not others or cursor.rowcount == len(others):
        return []
    doubled = []
    for receipt in others:
        query = f"SELECT * FROM receipts WHERE {_ONE}"  # noqa: S608 # of constants
        mine = Receipt(*cursor.execute(query, receipt[:3]).fetchone())
        # One that a snapshot brought, say, has the time of its write, like the frame's.
        if 0 < abs(mine.time_ms - receipt.time_ms) < KEPT_MS:
            doubled.append(receipt)
    return doubled


def kept(reader: sqlite3.Connection, operation: Operation) -> Receipt | None:
    """The result of an operation."""
    query = f"SELECT * FROM receipts WHERE {_ONE}"  # noqa: S608 # of constants
    row = reader.execute(query, operation).fetchone()
    return None if row is None else Receipt(*row)


def after(
    reader: sqlite3.Connection, key: ReceiptKey, most_bytes: int, until_ms: int
) -> list[Receipt]:
    """The results of operations after a key, by key, and up to a time; at least one if any."""
    found: list[Receipt] = []
    size = 0
    rows = reader.execute(
        "SELECT * FROM receipts WHERE (actor, method, request_id) > (?, ?, ?)"
        " AND time_ms <= ? ORDER BY actor, method, request_id",
        (*key, until_ms),
    )
    for row in rows:
        found.append(Receipt(*row))
        size += len(found[-1].response) + 128
        if size >= most_bytes:
            break
    rows.close()
    return found


def fence(cursor: sqlite3.Cursor, operation: Operation, time_ms: int) -> None:
    """Stores that an operation was granted to another region."""
    cursor.execute("INSERT OR REPLACE INTO fences VALUES (?, ?, ?, ?)", (*operation, time_ms))


def fences(reader: sqlite3.Connection) -> dict[Operation, int]:
    """All that was granted, the oldest first, and when."""
    rows = reader.execute("SELECT actor, method, request_id, time_ms FROM fences ORDER BY time_ms")
    return {(row[0], row[1], row[2]): row[3] for row in rows}


def prune(cursor: sqlite3.Cursor, now_ms: int) -> None:
    """Forgets what is older than operation ids are kept."""
    for table in ("receipts", "fences"):
        query = f"DELETE FROM {table} WHERE time_ms < ?"  # noqa: S608 # one of two constants
        cursor.execute(query, (now_ms - KEPT_MS,))
