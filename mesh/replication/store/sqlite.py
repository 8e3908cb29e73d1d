"""The embedded store: one SQLite database for each group and region.

WAL with `synchronous=FULL`: what `commit` returned for survives a power cut. The journal has one
row for each frame. State is flushed behind the journal, in pieces; recovery loads it and replays
the journal above the watermark of the last flush that was whole.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from mesh.replication.core.cells import Stamp
from mesh.replication.core.clocks import Origin, milliseconds
from mesh.replication.core.conflicts import Conflict
from mesh.replication.core.digest import bucket_of
from mesh.replication.core.entities import EntityKey, EntityState
from mesh.replication.core.errors import FormatUnknown, JournalDamaged
from mesh.replication.core.frames import Frame, StoredFrame
from mesh.replication.core.grants import Operation
from mesh.replication.core.journal import Batch, Recovered
from mesh.replication.core.parked import KNOWN, Known
from mesh.replication.core.receipts import Receipt, ReceiptKey
from mesh.replication.core.recovery import Position, recover
from mesh.replication.core.wire import piece, read_piece
from mesh.replication.errors import (
    StoreBroken,
    StoreCorrupt,
    StoreError,
    StoreFull,
    StoreLocked,
    StoreMismatch,
    StoreTooNew,
)
from mesh.replication.store import (
    HistoryRow,
    ResidentField,
    operations,
    residents,
    snapshots,
    trimming,
)
from mesh.replication.store.conflicts import keep, kept
from mesh.replication.store.scrubbing import Scrub
from mesh.replication.store.states import state_row, state_rows

FORMAT = 1
"""The version of the tables, kept as `user_version`."""

_APPLICATION_ID = 0x49535448  # "ISTH"
_PRUNE_EVERY_MS = 600 * 1000

_TABLES = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE frames (
  place INTEGER PRIMARY KEY, region TEXT NOT NULL, incarnation INTEGER NOT NULL,
  first INTEGER NOT NULL, last INTEGER NOT NULL, body BLOB NOT NULL, hash BLOB NOT NULL,
  signature BLOB NOT NULL
);
CREATE UNIQUE INDEX frames_by_origin ON frames (region, incarnation, last);
CREATE TABLE positions (
  region TEXT NOT NULL, incarnation INTEGER NOT NULL,
  sequence INTEGER NOT NULL, hash BLOB NOT NULL, clock INTEGER NOT NULL,
  signature BLOB NOT NULL DEFAULT x'', flushed INTEGER NOT NULL DEFAULT 0,
  flushed_hash BLOB NOT NULL DEFAULT (zeroblob(32)),
  PRIMARY KEY (region, incarnation)
) WITHOUT ROWID;
CREATE TABLE keys (id BLOB PRIMARY KEY, statement BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE states (
  bucket INTEGER NOT NULL, type TEXT NOT NULL, key TEXT NOT NULL, state BLOB NOT NULL,
  hash BLOB NOT NULL, PRIMARY KEY (bucket, type, key)
) WITHOUT ROWID;
CREATE TABLE conflicts (
  place INTEGER PRIMARY KEY AUTOINCREMENT, type TEXT NOT NULL, key TEXT NOT NULL,
  generation INTEGER NOT NULL, path BLOB NOT NULL, rule INTEGER NOT NULL,
  read BLOB NOT NULL, other BLOB NOT NULL
);
CREATE TABLE history (
  type TEXT NOT NULL, key TEXT NOT NULL, clock INTEGER NOT NULL, region TEXT NOT NULL,
  incarnation INTEGER NOT NULL, generation INTEGER NOT NULL, kind INTEGER NOT NULL,
  actor TEXT NOT NULL, trace_parent TEXT NOT NULL, request_id TEXT NOT NULL, paths BLOB NOT NULL,
  PRIMARY KEY (type, key, clock, region, incarnation)
) WITHOUT ROWID;
CREATE TABLE residents (
  type TEXT NOT NULL, key TEXT NOT NULL, state BLOB NOT NULL, PRIMARY KEY (type, key)
) WITHOUT ROWID;
CREATE TABLE resident_fields (
  type TEXT NOT NULL, path BLOB NOT NULL, PRIMARY KEY (type, path)
) WITHOUT ROWID;
"""


class SqliteStore:
    """See `mesh.replication.store.Store`. `history_types` are the entities whose history is kept.

    What is not `known` is parked. Raises `StoreLocked`, `StoreMismatch`, `StoreTooNew`,
    `StoreCorrupt` or `StoreError` if the folder cannot be used.
    """

    def __init__(
        self,
        folder: Path,
        group: str,
        region: str,
        contract_digest: bytes,
        history_types: Iterable[str],
        known: Known = KNOWN,
    ) -> None:
        self._known = known
        self._history_types = frozenset(history_types)
        self._broken: StoreBroken | None = None
        self._pruned_ms = 0
        self._discreet = False
        self._path = folder / f"{group}.sqlite3"
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = os.open(folder / f"{group}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StoreError(f"{folder} cannot hold the group's store: {error}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise StoreLocked(f"{self._path} is open in another process: stop that one") from None
        try:
            self._open(group, region, contract_digest)
        except BaseException:
            os.close(self._lock)
            raise

    def _open(self, group: str, region: str, contract_digest: bytes) -> None:
        new = not self._path.exists()
        with self._translated():
            self._writer = _connect(self._path)
        with self._translated():
            version = self._number("PRAGMA user_version")
            tables = self._number("SELECT count(*) FROM sqlite_master")
            if version > FORMAT:
                raise StoreTooNew(
                    f"{self._path} has format {version}, and this version of Isthmus knows "
                    f"{FORMAT}: run the version that wrote it, or a newer one"
                )
            if not tables:
                self._create(group, region)
            elif self._number("PRAGMA application_id") != _APPLICATION_ID or version < FORMAT:
                raise StoreCorrupt(f"{self._path} is not a store of Isthmus: move it away")
            self._check("group", group)
            self._check("region", region)
            self._writer.execute(
                "INSERT OR REPLACE INTO meta VALUES ('contract_digest', ?)", (contract_digest,)
            )
            self._reader = _connect(self._path)
            self.journal_bytes = trimming.journal_bytes(self._reader)
        if new:
            for folder in (self._path.parent, self._path.parent.parent):
                _sync_folder(folder)

    def _create(self, group: str, region: str) -> None:
        with self._transaction() as cursor:
            for statement in [*(_TABLES + operations.TABLES).split(";"), snapshots.TABLES]:
                cursor.execute(statement)
            cursor.execute(f"PRAGMA application_id={_APPLICATION_ID}")
            cursor.execute(f"PRAGMA user_version={FORMAT}")
            rows = (("group", group.encode()), ("region", region.encode()))
            cursor.executemany("INSERT INTO meta VALUES (?, ?)", rows)

    def _check(self, name: str, value: str) -> None:
        row = self._writer.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        found = row[0].decode() if row else "none"
        if found != value:
            raise StoreMismatch(f"{self._path} belongs to {name} {found!r}, not to {value!r}")

    def _number(self, query: str) -> int:
        value = self._writer.execute(query).fetchone()[0]
        assert isinstance(value, int)  # noqa: S101 # these queries give numbers
        return value

    def recover(self) -> Recovered:
        """State as flushed, brought up to the journal's end."""
        with self._translated():
            return self._recover()

    def _recover(self) -> Recovered:
        read = self._reader.execute
        positions: dict[Origin, Position] = {}
        for region, incarnation, *rest in read(
            "SELECT region, incarnation, sequence, hash, flushed, flushed_hash, clock, signature"
            " FROM positions"
        ).fetchall():
            positions[Origin(region, incarnation)] = Position(*rest)
        rows = read("SELECT CAST(type AS BLOB), CAST(key AS BLOB), state, hash FROM states")
        # A damaged name need not be UTF-8.
        states = (((_text(row[0]), _text(row[1])), row[2], row[3]) for row in rows)
        try:
            recovered = recover(states, positions, self._unflushed(), self._known)
        except FormatUnknown as fault:
            raise StoreTooNew(f"{self._path} cannot be read by this version: {fault}") from None
        except JournalDamaged as damage:
            raise StoreCorrupt(
                f"{self._path}: {damage}: move the store away, peers hold the rest"
            ) from None
        try:
            recovered.residents = residents.load(self._reader, self._known.rules)
        except JournalDamaged as damage:
            raise StoreCorrupt(
                f"{self._path}: {damage}: restore a backup, no other region has it"
            ) from None
        recovered.staged = snapshots.staged(self._reader)
        recovered.keys = [row[0] for row in read("SELECT statement FROM keys")]
        if recovered.gone:
            self._forget(recovered)
        return recovered

    def _forget(self, recovered: Recovered) -> None:
        """Lets go of what was parked, with the states that have it now, in one transaction."""
        with self._transaction() as cursor:
            cursor.executemany(
                "INSERT OR REPLACE INTO states VALUES (?, ?, ?, ?, ?)",
                (state_row(entity, recovered.states[entity]) for entity in recovered.replayed),
            )
            cursor.executemany(
                "DELETE FROM states WHERE bucket = ? AND type = ? AND key = ?",
                [(bucket_of(entity), *entity) for entity in recovered.gone],
            )

    def _unflushed(self) -> Iterator[StoredFrame]:
        first_place = self._reader.execute(
            "SELECT min(place) FROM frames JOIN positions USING (region, incarnation)"
            " WHERE last > flushed"
        ).fetchone()[0]
        rows = self._reader.execute(
            "SELECT place, region, incarnation, first, last, body, hash, signature FROM frames"
            " WHERE place >= ? ORDER BY place",
            (first_place if first_place is not None else 1 << 62,),
        )
        return map(_stored, rows)

    def commit(self, batch: Batch) -> list[StoredFrame]:
        """Makes a batch durable in one transaction: frames, positions, receipts, history."""
        stored = []
        with self._transaction() as cursor:
            for frame in batch.frames:
                cursor.execute(
                    "INSERT INTO frames (region, incarnation, first, last, body, hash, signature)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (
                        *frame.origin,
                        frame.first,
                        frame.last,
                        frame.body,
                        frame.hash,
                        frame.signature,
                    ),
                )
                assert cursor.lastrowid is not None  # noqa: S101 # an INSERT gives one
                stored.append(
                    StoredFrame(
                        cursor.lastrowid,
                        frame.origin,
                        frame.first,
                        frame.last,
                        frame.body,
                        frame.hash,
                        frame.signature,
                    )
                )
            cursor.executemany(
                "INSERT INTO positions (region, incarnation, sequence, hash, clock, signature)"
                " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET sequence = excluded.sequence,"
                " hash = excluded.hash, clock = excluded.clock, signature = excluded.signature",
                [(*f.origin, f.last, f.hash, f.newest, f.signature) for f in batch.frames],
            )
            cursor.executemany(
                "INSERT OR IGNORE INTO keys VALUES (?, ?)",
                [(key.id, key.statement) for key in batch.keys],
            )
            came = [receipt for frame in batch.frames for receipt in frame.receipts]
            batch.merged.doubled = operations.keep(cursor, batch.receipts, came)
            cursor.executemany(
                "INSERT OR REPLACE INTO history VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                self._history_rows(batch.frames),
            )
            if batch.settled:
                residents.keep(cursor, batch.settled)
            if batch.merged.conflicts:
                keep(cursor, batch.merged.conflicts)
            if batch.staging is not None:
                snapshots.stage(cursor, batch.staging)
            for frame in batch.frames[:1]:
                self._prune(cursor, milliseconds(frame.newest))
        self.journal_bytes += sum(len(frame.body) for frame in batch.frames)
        return stored

    def _history_rows(self, frames: Iterable[Frame]) -> Iterator[tuple[object, ...]]:
        if not self._history_types:
            return
        for frame in frames:
            for change in frame.changes:
                if change.entity[0] in self._history_types:
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

    def _prune(self, cursor: sqlite3.Cursor, now_ms: int) -> None:
        if now_ms - self._pruned_ms >= _PRUNE_EVERY_MS:
            self._pruned_ms = now_ms
            operations.prune(cursor, now_ms)

    def flush(
        self,
        states: Mapping[EntityKey, EntityState],
        watermark: Mapping[Origin, int] | None = None,
        kept: Mapping[EntityKey, int] | None = None,
    ) -> set[EntityKey]:
        """Stores states of what is committed; see `mesh.replication.store.Store`."""
        rows, refused = state_rows(states, kept or {})
        # Not synced by itself: a power cut may undo it, whole and in order, and the journal has it.
        with self._transaction("NORMAL") as cursor:
            cursor.executemany(
                "INSERT OR REPLACE INTO states VALUES (?, ?, ?, ?, ?)",
                rows.values(),
            )
            cursor.executemany(
                # A snapshot may have moved the watermark further meanwhile.
                "UPDATE positions SET flushed = ?1, flushed_hash = (SELECT hash FROM frames"
                " WHERE region = ?2 AND incarnation = ?3 AND last = ?1)"
                " WHERE region = ?2 AND incarnation = ?3 AND flushed < ?1",
                [] if refused else [(n, *origin) for origin, n in (watermark or {}).items()],
            )
        return refused

    def scrub(self) -> Scrub:
        """A connection that reads again what is stored; see `mesh.replication.store.scrubbing`."""
        with self._translated():
            return Scrub(_connect(self._path), self._transaction, self._translated)

    def trim(self, below: Mapping[Origin, int], keep_bytes: int) -> bool:
        """Deletes some of the oldest frames; see `mesh.replication.store.Store`."""
        size = 0
        if self.journal_bytes > keep_bytes:
            # Not synced by itself: a power cut may bring frames back, which does no harm.
            with self._transaction("NORMAL") as cursor:
                size = trimming.trim(cursor, below, self.journal_bytes - keep_bytes)
            self.journal_bytes -= size
        return size > 0

    def forget(self, entities: Iterable[EntityKey]) -> None:
        """Deletes stored states: of tombstones that are dropped."""
        # Not synced by itself: after a power cut they are there, and are dropped again.
        with self._transaction("NORMAL") as cursor:
            cursor.executemany(
                "DELETE FROM states WHERE bucket = ? AND type = ? AND key = ?",
                ((bucket_of(entity), *entity) for entity in entities),
            )

    def held(self, vector: Mapping[Origin, int]) -> int:
        """How many bytes of frames lie beyond a vector; at most, if they are very many."""
        with self._translated():
            found = trimming.held(self._writer, vector)
        return self.journal_bytes if found is None else found

    def receipts(self, after: ReceiptKey, most_bytes: int, until_ms: int) -> list[Receipt]:
        """The kept results of operations after a key, by key, and up to a time.

        They are for others: bare, if anything of the group stays here.
        """
        found: list[Receipt] = []
        size = 0
        with self._translated():
            rows = self._reader.execute(
                "SELECT * FROM receipts WHERE (actor, method, request_id) > (?, ?, ?)"
                " AND time_ms <= ? ORDER BY actor, method, request_id",
                (*after, until_ms),
            )
            for row in rows:
                found.append(Receipt(*row).bare() if self._discreet else Receipt(*row))
                size += len(found[-1].response) + 128
                if size >= most_bytes:
                    break
            rows.close()
        return found

    def after(self, origin: Origin, sequence: int, most_bytes: int) -> list[StoredFrame]:
        """An origin's frames that end beyond a sequence number; at least one if there is any."""
        found: list[StoredFrame] = []
        size = 0
        with self._translated():
            rows = self._reader.execute(
                "SELECT place, region, incarnation, first, last, body, hash, signature FROM frames"
                " WHERE region = ? AND incarnation = ? AND last > ? ORDER BY last",
                (*origin, sequence),
            )
            for row in rows:
                found.append(_stored(row))
                size += len(found[-1].body)
                if size >= most_bytes:
                    break
            rows.close()
        return found

    def receipt(self, actor: str, method: str, request_id: str) -> Receipt | None:
        """The kept result of an operation."""
        with self._translated():
            return operations.kept(self._reader, (actor, method, request_id))

    def fence(self, operation: Operation, time_ms: int) -> None:
        """Makes durable that an operation was granted to another region."""
        with self._transaction() as cursor:
            operations.fence(cursor, operation, time_ms)

    def fences(self) -> dict[Operation, int]:
        """The operations that were granted to other regions, and when."""
        with self._translated():
            return operations.fences(self._reader)

    def history(self, entity: EntityKey, most: int) -> list[HistoryRow]:
        """An entity's changes, newest first."""
        with self._translated():
            rows = self._reader.execute(
                "SELECT clock, region, incarnation, generation, kind, actor, trace_parent,"
                " request_id, paths FROM history WHERE type = ? AND key = ?"
                " ORDER BY clock DESC, region DESC, incarnation DESC LIMIT ?",
                (*entity, most),
            ).fetchall()
        return [
            HistoryRow(Stamp(*row[:3]), row[3], row[4], row[5], row[6], row[7], _paths(row[8]))
            for row in rows
        ]

    def conflicts(self, entity: EntityKey | None, most: int) -> list[Conflict]:
        """The conflicts of an entity, or of all, newest first."""
        with self._translated():
            return kept(self._reader, entity, most)

    def resident_fields(self, declared: Iterable[ResidentField]) -> frozenset[ResidentField]:
        """See `mesh.replication.store.Store`."""
        with self._transaction() as cursor:
            remembered = residents.remember(cursor, declared)
        self._discreet = bool(remembered)
        return remembered

    def close(self) -> None:
        """Lets go of the store."""
        self._reader.close()
        self._writer.close()
        os.close(self._lock)

    @contextmanager
    def _transaction(self, synchronous: str = "FULL") -> Iterator[sqlite3.Cursor]:
        if self._broken is not None:
            raise self._broken
        with self._translated():
            cursor = self._writer.cursor()
            try:
                cursor.execute(f"PRAGMA synchronous={synchronous}")
                cursor.execute("BEGIN IMMEDIATE")
                yield cursor
                cursor.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.rollback()
                raise
            finally:
                cursor.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise self._translate(error) from error

    def _translate(self, error: sqlite3.Error) -> StoreError:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            return StoreFull(f"no space is left for {self._path}: make room, writes resume then")
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return StoreCorrupt(
                f"{self._path} is damaged ({error}): move it away and restart; the region then "
                "fetches everything from its peers"
            )
        if code == sqlite3.SQLITE_IOERR:
            self._broken = StoreBroken(
                f"{self._path}: {error}: the last commit is in doubt; look at the disk, and restart"
            )
            return self._broken
        return StoreError(f"{self._path}: {error}")


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    path.chmod(0o600)
    return connection


def _stored(row: tuple[int, str, int, int, int, bytes, bytes, bytes]) -> StoredFrame:
    return StoredFrame(row[0], Origin(row[1], row[2]), *row[3:])


def _text(data: bytes) -> str:
    return data.decode(errors="backslashreplace")


def _paths(data: bytes) -> tuple[bytes, ...]:
    found = []
    at = 0
    while at < len(data):
        path, at = read_piece(data, at)
        found.append(path)
    return tuple(found)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
