"""The rows of stored states: clustered as the digest's buckets are, each with a checksum."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping

from mesh.replication.core.digest import bucket_of
from mesh.replication.core.entities import UNPROVEN, EntityKey, EntityState, checksum, encode

Row = tuple[int, str, str, bytes, bytes]
"""Bucket, type, key, canonical bytes, and the checksum of these and of the name."""

TABLES = """
CREATE TABLE states (
  bucket INTEGER NOT NULL, type TEXT NOT NULL, key TEXT NOT NULL, state BLOB NOT NULL,
  hash BLOB NOT NULL, PRIMARY KEY (bucket, type, key)
) WITHOUT ROWID;
"""


def state_row(entity: EntityKey, state: EntityState) -> Row:
    """The row of an entity."""
    return row_of(entity, encode(state))


def row_of(entity: EntityKey, canonical: bytes) -> Row:
    """The row of an entity of which the canonical bytes are at hand."""
    return bucket_of(entity), *entity, canonical, checksum(entity, canonical)


def unproven(row: Row) -> Row:
    """The row of an entity that is damaged: whoever reads it finds that."""
    return *row[:4], UNPROVEN


def state_rows(
    states: Mapping[EntityKey, EntityState], kept: Mapping[EntityKey, int]
) -> tuple[dict[EntityKey, Row], set[EntityKey]]:
    """The rows of entities, and those of which the state is not the one that was hashed."""
    rows: dict[EntityKey, Row] = {}
    refused: set[EntityKey] = set()
    for entity, state in states.items():
        row = state_row(entity, state)
        known = kept.get(entity)
        if known is None or known == int.from_bytes(row[4], "big"):
            rows[entity] = row
        else:
            refused.add(entity)
    return rows, refused


def put(cursor: sqlite3.Cursor, rows: Iterable[Row]) -> None:
    """Stores states in place of what was stored of their entities."""
    cursor.executemany("INSERT OR REPLACE INTO states VALUES (?, ?, ?, ?, ?)", rows)


def drop(cursor: sqlite3.Cursor, entities: Iterable[EntityKey]) -> None:
    """Deletes what is stored of entities."""
    cursor.executemany(
        "DELETE FROM states WHERE bucket = ? AND type = ? AND key = ?",
        ((bucket_of(entity), *entity) for entity in entities),
    )


def load(reader: sqlite3.Connection) -> Iterator[tuple[EntityKey, bytes, bytes]]:
    """All stored states, as canonical bytes with their checksums, which nobody has checked yet."""
    rows = reader.execute("SELECT CAST(type AS BLOB), CAST(key AS BLOB), state, hash FROM states")
    return (((read_name(row[0]), read_name(row[1])), row[2], row[3]) for row in rows)


def load_one(reader: sqlite3.Connection, entity: EntityKey) -> bytes | None:
    """An entity's canonical bytes: empty if none are stored, None if their checksum is another."""
    row = reader.execute(
        "SELECT state, hash FROM states WHERE bucket = ? AND type = ? AND key = ?",
        (bucket_of(entity), *entity),
    ).fetchone()
    if row is None:
        return b""
    return row[0] if checksum(entity, row[0]) == row[1] else None


def read_name(data: bytes) -> str:
    """A column of a name, as text; a damaged one need not be UTF-8."""
    return data.decode(errors="backslashreplace")
