"""Cutting the journal in the group's database, a few frames at a time."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from mesh.replication.core.clocks import Origin

PIECE = 64
PIECE_BYTES = 8 << 20
"""How many frames are deleted in one transaction: commits wait for no more."""

COUNTED = 20_000
"""So many frames are counted: about 20 ms."""


def journal_bytes(reader: sqlite3.Connection) -> int:
    """How many bytes of frames the journal holds."""
    size: int = reader.execute("SELECT coalesce(sum(length(body)), 0) FROM frames").fetchone()[0]
    return size


def trim(cursor: sqlite3.Cursor, below: Mapping[Origin, int], most_bytes: int) -> int:
    """Deletes the oldest frames that lie wholly at or below a vector and the flushed watermark.

    At most `PIECE` of them, and no more than `most_bytes`. Returns how many bytes went.
    """
    rows = cursor.execute(
        "SELECT place, length(body), region, incarnation, last FROM frames"
        " CROSS JOIN positions USING (region, incarnation) WHERE last <= flushed ORDER BY place"
    )
    gone: list[tuple[int]] = []
    size = 0
    for place, length, region, incarnation, last in rows:
        if last > below.get(Origin(region, incarnation), 0):
            continue
        if len(gone) == PIECE or size + length > min(most_bytes, PIECE_BYTES):
            break
        gone.append((place,))
        size += length
    cursor.executemany("DELETE FROM frames WHERE place = ?", gone)
    return size


def held(connection: sqlite3.Connection, vector: Mapping[Origin, int]) -> int | None:
    """How many bytes of frames lie beyond a vector; None if these are too many to count."""
    size = 0
    left = COUNTED
    for row in connection.execute("SELECT region, incarnation FROM positions").fetchall():
        origin = Origin(*row)
        frames, more = connection.execute(
            "SELECT count(*), coalesce(sum(size), 0) FROM (SELECT length(body) AS size FROM frames"
            " WHERE region = ? AND incarnation = ? AND last > ? LIMIT ?)",
            (*origin, vector.get(origin, 0), left),
        ).fetchone()
        size += more
        left -= frames
        if left <= 0:
            return None
    return size
