"""The journal in the group's database: one row for each frame, and how far each origin is."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping

from mesh.replication.core.batches import Recovered
from mesh.replication.core.clocks import Origin
from mesh.replication.core.frames import Frame, StoredFrame
from mesh.replication.core.recovery import Position

TABLES = """
CREATE TABLE frames (
  place INTEGER PRIMARY KEY, region TEXT NOT NULL, incarnation INTEGER NOT NULL,
  first INTEGER NOT NULL, last INTEGER NOT NULL, hash BLOB NOT NULL, signature BLOB NOT NULL,
  body BLOB NOT NULL
);
CREATE UNIQUE INDEX frames_by_origin ON frames (region, incarnation, last);
CREATE TABLE positions (
  region TEXT NOT NULL, incarnation INTEGER NOT NULL,
  sequence INTEGER NOT NULL, hash BLOB NOT NULL, clock INTEGER NOT NULL,
  signature BLOB NOT NULL DEFAULT x'', flushed INTEGER NOT NULL DEFAULT 0,
  flushed_hash BLOB NOT NULL DEFAULT (zeroblob(32)),
  PRIMARY KEY (region, incarnation)
) WITHOUT ROWID;
"""
_SELECT = "SELECT place, region, incarnation, first, last, body, hash, signature FROM frames"


def append(cursor: sqlite3.Cursor, frames: Iterable[Frame]) -> list[StoredFrame]:
    """Appends frames, and moves their origins' positions to them."""
    stored = []
    for frame in frames:
        columns = (frame.first, frame.last, frame.body, frame.hash, frame.signature)
        cursor.execute(
            # A loose one, from behind a cut, may be there.
            "INSERT OR REPLACE INTO frames"
            " (region, incarnation, first, last, body, hash, signature)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (*frame.origin, *columns),
        )
        assert cursor.lastrowid is not None  # noqa: S101 # an INSERT gives one
        stored.append(StoredFrame(cursor.lastrowid, frame.origin, *columns))
    cursor.executemany(
        "INSERT INTO positions (region, incarnation, sequence, hash, clock, signature)"
        " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET sequence = excluded.sequence,"
        " hash = excluded.hash, clock = excluded.clock, signature = excluded.signature",
        [(*f.origin, f.last, f.hash, f.newest, f.signature) for f in frames],
    )
    return stored


def raise_watermark(cursor: sqlite3.Cursor, watermark: Mapping[Origin, int]) -> None:
    """Notes that all states are stored as of a vector, or later."""
    cursor.executemany(
        # A snapshot may have moved the watermark further meanwhile.
        "UPDATE positions SET flushed = ?1, flushed_hash = (SELECT hash FROM frames"
        " WHERE region = ?2 AND incarnation = ?3 AND last = ?1)"
        " WHERE region = ?2 AND incarnation = ?3 AND flushed < ?1",
        [(sequence, *origin) for origin, sequence in watermark.items()],
    )


def positions(reader: sqlite3.Connection) -> dict[Origin, Position]:
    """How far each origin is."""
    rows = reader.execute(
        "SELECT region, incarnation, sequence, hash, flushed, flushed_hash, clock, signature"
        " FROM positions"
    )
    return {Origin(row[0], row[1]): Position(*row[2:]) for row in rows}


def set_back(cursor: sqlite3.Cursor, recovered: Recovered) -> None:
    """Origins end where the journal is cut."""
    cursor.executemany(
        "DELETE FROM positions WHERE region = ? AND incarnation = ?",
        positions(cursor.connection).keys() - recovered.vector.keys(),
    )
    cursor.executemany(
        "UPDATE positions SET sequence = ?, hash = ?, clock = ?, signature = ?"
        " WHERE region = ? AND incarnation = ?",
        [
            (
                sequence,
                recovered.heads[origin],
                recovered.clocks[origin],
                recovered.signatures[origin],
                *origin,
            )
            for origin, sequence in recovered.vector.items()
        ],
    )


def at(reader: sqlite3.Connection, origin: Origin, last: int) -> StoredFrame | None:
    """The frame of an origin that ends at a sequence number."""
    row = reader.execute(
        f"{_SELECT} WHERE region = ? AND incarnation = ? AND last = ?", (*origin, last)
    ).fetchone()
    return None if row is None else _stored(row)


def unflushed(reader: sqlite3.Connection) -> Iterator[StoredFrame]:
    """The frames from the first on that is above the watermark, in the order of their commits."""
    first = reader.execute(
        # Of an origin without a position all are loose.
        "SELECT min(place) FROM frames LEFT JOIN positions USING (region, incarnation)"
        " WHERE last > coalesce(flushed, 0)"
    ).fetchone()[0]
    if first is None:
        return iter(())
    return map(_stored, reader.execute(f"{_SELECT} WHERE place >= ? ORDER BY place", (first,)))


def after(
    reader: sqlite3.Connection, origin: Origin, sequence: int, most_bytes: int
) -> list[StoredFrame]:
    """An origin's frames that end beyond a sequence number; at least one if there is any."""
    found: list[StoredFrame] = []
    size = 0
    rows = reader.execute(
        f"{_SELECT} WHERE region = ? AND incarnation = ? AND last > ? ORDER BY last",
        (*origin, sequence),
    )
    for row in rows:
        found.append(_stored(row))
        size += len(found[-1].body)
        if size >= most_bytes:
            break
    rows.close()
    return found


def _stored(row: tuple[int, str, int, int, int, bytes, bytes, bytes]) -> StoredFrame:
    return StoredFrame(row[0], Origin(row[1], row[2]), *row[3:])
