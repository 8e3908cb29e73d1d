"""Reading again what a group's store holds: each row against its checksum and its neighbours.

Texts are read as bytes: a damaged one need not be UTF-8.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import NamedTuple

from mesh.replication.core.clocks import Origin
from mesh.replication.core.damage import FramePlace
from mesh.replication.core.digest import BUCKETS, bucket_of
from mesh.replication.core.entities import EntityKey, checksum
from mesh.replication.core.errors import LinkFault
from mesh.replication.core.frames import GENESIS, Frame, chain, parse
from mesh.replication.store.states import read_name

ROWS = 200
"""How many stored states are read at once."""

FRAMES = 16
"""How many frames are read at once."""

_STATES = "SELECT bucket, CAST(type AS BLOB), CAST(key AS BLOB), state, hash FROM states"
_COLUMNS = "SELECT place, CAST(region AS BLOB), incarnation, first, last, body FROM frames"
_FRAMES = "SELECT first, last, body, hash FROM frames WHERE region = ? AND incarnation = ?"


class StoredState(NamedTuple):
    """A stored state; its fingerprint is None if the row is not what its checksum says.

    `row` is what the row is found by: its bucket, type and key.
    """

    entity: EntityKey
    fingerprint: int | None
    row: tuple[int, bytes, bytes]


class Reached(NamedTuple):
    """How far an origin's frames were read: a sequence number, and the chain's hash there.

    The hash is None if the chain's beginning is not held any more.
    """

    sequence: int = 0
    hash: bytes | None = GENESIS


class Scrub:
    """Reads a store that another thread writes; what it writes itself, that thread does.

    `transaction` begins one; `translated` raises errors of SQLite as the store's own.
    """

    def __init__(
        self,
        reader: sqlite3.Connection,
        transaction: Callable[[], AbstractContextManager[sqlite3.Cursor]],
        translated: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._reader = reader
        self._transaction = transaction
        self._translated = translated

    def close(self) -> None:
        """Lets go of the store."""
        self._reader.close()

    # Stored states.

    def states(self, first: int) -> tuple[int, list[StoredState]]:
        """The states of the next buckets from `first` on, and where these end."""
        with self._translated():
            rows = self._reader.execute(
                f"{_STATES} WHERE bucket >= ? ORDER BY bucket LIMIT ?", (first, ROWS)
            ).fetchall()
            if len(rows) < ROWS:
                return BUCKETS, [_state(row) for row in rows]
            end = rows[-1][0]
            if end == rows[0][0]:
                rows = self._reader.execute(f"{_STATES} WHERE bucket = ?", (end,)).fetchall()
                end += 1
        return end, [_state(row) for row in rows if row[0] < end]

    def state(self, entity: EntityKey) -> StoredState | None:
        """An entity's stored state."""
        with self._translated():
            row = self._reader.execute(
                f"{_STATES} WHERE bucket = ? AND type = ? AND key = ?", (bucket_of(entity), *entity)
            ).fetchone()
        return None if row is None else _state(row)

    def drop_states(self, rows: Iterable[tuple[int, bytes, bytes]]) -> None:
        """Deletes rows that stand for nothing. For the thread that writes."""
        with self._transaction() as cursor:
            cursor.executemany(
                "DELETE FROM states"
                " WHERE bucket = ? AND CAST(type AS BLOB) = ? AND CAST(key AS BLOB) = ?",
                rows,
            )

    # Frames.

    def frames(
        self, origin: Origin, reached: Reached, head: tuple[int, bytes]
    ) -> tuple[Reached, list[int]]:
        """Reads on in an origin's frames, at most up to its `head`.

        Returns how far, and where frames begin that are damaged or missing.
        """
        with self._translated():
            rows = self._reader.execute(
                f"{_FRAMES} AND last > ? AND last <= ? ORDER BY last LIMIT ?",
                (*origin, reached.sequence, head[0], FRAMES + 1),
            ).fetchall()
        sequence, hash = reached
        damaged: list[int] = []
        if sequence == 0 and rows and rows[0][0] > 1:
            sequence, hash = rows[0][0] - 1, None  # The journal is cut.
        for at, (first, last, body, stored) in enumerate(rows[:FRAMES]):
            follows = first == sequence + 1 and last >= first
            computed = stored if hash is None else chain(hash, body)
            if follows and computed == stored:
                sequence, hash = last, stored
                continue
            damaged.append(sequence + 1)
            # What follows tells which of the two hashes is right, and where this one ends.
            after = rows[at + 1] if at + 1 < len(rows) else None
            right = head[1] if after is None else after[3]
            leads = computed == right if after is None else chain(computed, after[2]) == right
            hash = computed if leads else stored
            end = head[0] if after is None else after[0] - 1
            sequence = end if sequence < end <= head[0] else max(sequence, last)
        if len(rows) <= FRAMES and sequence < head[0]:
            damaged.append(sequence + 1)
        if len(rows) <= FRAMES:
            return Reached(*head), damaged
        return Reached(sequence, hash), damaged

    def strays(self, known: Mapping[Origin, int]) -> list[tuple[FramePlace, int]]:
        """Frames whose columns are not what they say themselves, as far as that shows nowhere else.

        So it is under an origin that there is not, beyond an origin's end, and where the journal is
        cut. Returns what they are, and their places.
        """
        names = {(origin.region.encode(), origin.incarnation) for origin in known}
        rows: list[tuple[int, bytes, int, int, int, bytes]] = []
        with self._translated():
            origins = self._reader.execute(
                "SELECT DISTINCT CAST(region AS BLOB), incarnation FROM frames"
            ).fetchall()
            for name in origins:
                if tuple(name) not in names:
                    rows += self._reader.execute(
                        f"{_COLUMNS} WHERE CAST(region AS BLOB) = ? AND incarnation = ?", name
                    ).fetchall()
            for origin, end in known.items():
                where = f"{_COLUMNS} WHERE region = ? AND incarnation = ?"
                rows += self._reader.execute(f"{where} AND last > ?", (*origin, end)).fetchall()
                rows += self._reader.execute(f"{where} ORDER BY last LIMIT 1", origin).fetchall()
        found = []
        for place, region, incarnation, first, last, body in rows:
            try:
                frame = parse(body, b"")
            except LinkFault:
                found.append(((Origin(read_name(region), incarnation), first), place))
                continue
            claimed = (region, incarnation, first, last)
            told = (frame.origin.region.encode(), frame.origin.incarnation, frame.first, frame.last)
            if claimed != told:
                found.append(((frame.origin, frame.first), place))
        return found

    def mend_columns(self, place: int) -> None:
        """Sets a frame's columns to what its body says; without a body it goes."""
        with self._transaction() as cursor:
            body, hash, signature = cursor.execute(
                "SELECT body, hash, signature FROM frames WHERE place = ?", (place,)
            ).fetchone()
            try:
                frame = parse(body, hash)
                frame.signature = signature
                _put(cursor, place, frame)
            except LinkFault:
                # The gap that it leaves is found, and filled by a peer.
                cursor.execute("DELETE FROM frames WHERE place = ?", (place,))

    def mend_frame(self, frame: Frame, head: tuple[int, bytes]) -> bool:
        """Puts a peer's frame in its place, if it follows from its neighbours.

        `head` is the end of its origin's chain. For the thread that writes.
        """
        origin = tuple(frame.origin)
        with self._transaction() as cursor:
            before = cursor.execute(
                "SELECT hash FROM frames WHERE region = ? AND incarnation = ? AND last = ?",
                (*origin, frame.first - 1),
            ).fetchone()
            after = cursor.execute(f"{_FRAMES} AND first = ?", (*origin, frame.last + 1)).fetchone()
            previous = GENESIS if frame.first == 1 else before and before[0]
            if previous is not None and chain(previous, frame.body) != frame.hash:
                return False
            if after is not None and chain(frame.hash, after[2]) != after[3]:
                return False
            if after is None and (frame.last, frame.hash) != head:
                return False
            places = cursor.execute(
                "SELECT place FROM frames WHERE hash = ?"
                " OR (region = ? AND incarnation = ? AND (last = ? OR first = ?)) ORDER BY place",
                (frame.hash, *origin, frame.last, frame.first),
            ).fetchall()
            cursor.executemany("DELETE FROM frames WHERE place = ?", places[1:])
            _put(cursor, places[0][0] if places else None, frame)
        return True


def _put(cursor: sqlite3.Cursor, place: int | None, frame: Frame) -> None:
    """Writes a frame at its place; without one it is the last."""
    columns = (
        *frame.origin,
        frame.first,
        frame.last,
        frame.body,
        frame.hash,
        frame.signature,
    )
    if place is None:
        cursor.execute(
            "INSERT OR REPLACE INTO frames"
            " (region, incarnation, first, last, body, hash, signature)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            columns,
        )
    else:
        cursor.execute(
            "UPDATE OR REPLACE frames SET region = ?, incarnation = ?, first = ?, last = ?,"
            " body = ?, hash = ?, signature = ? WHERE place = ?",
            (*columns, place),
        )


def _state(row: tuple[int, bytes, bytes, bytes, bytes]) -> StoredState:
    bucket, type, key, canonical, hash = row
    entity = (read_name(type), read_name(key))
    right = bucket == bucket_of(entity) and checksum(entity, canonical) == hash
    return StoredState(entity, int.from_bytes(hash, "big") if right else None, row[:3])
