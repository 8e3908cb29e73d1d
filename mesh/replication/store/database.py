"""One SQLite file for each group and region: opened, locked, and checked to be the right one.

WAL with `synchronous=FULL`: what a transaction returned for survives a power cut.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mesh.replication.errors import (
    StoreBroken,
    StoreCorrupt,
    StoreError,
    StoreFull,
    StoreLocked,
    StoreMismatch,
    StoreTooNew,
)
from mesh.replication.store.checkpoints import Checkpoints

FORMAT = 1
"""The version of the tables, kept as `user_version`."""

_APPLICATION_ID = 0x49535448  # "ISTH"
_META = "CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;"


class Database:
    """A group's database: a connection that writes, and one that reads.

    `tables` are the statements that make a new one. Raises `StoreLocked`, `StoreMismatch`,
    `StoreTooNew`, `StoreCorrupt` or `StoreError` if the folder cannot be used.
    """

    def __init__(
        self,
        folder: Path,
        group: str,
        region: str,
        contract_digest: bytes,
        tables: Iterable[str],
    ) -> None:
        self._broken: StoreBroken | None = None
        self._synced = True
        self._checkpoints: Checkpoints | None = None
        self.path = folder / f"{group}.sqlite3"
        self.remedy = (
            "start the region with an empty store, which fetches what its peers hold: "
            f"`isthmus members restore {region} --set-aside {group}`"
        )
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = os.open(folder / f"{group}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StoreError(f"{folder} cannot hold the group's store: {error}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise StoreLocked(f"{self.path} is open in another process: stop that one") from None
        try:
            self._open(group, region, contract_digest, tables)
        except BaseException:
            os.close(self._lock)
            raise

    def _open(self, group: str, region: str, digest: bytes, tables: Iterable[str]) -> None:
        new = not self.path.exists()
        with self.translated():
            self.writer = self.connect()
        with self.translated():
            version = self._number("PRAGMA user_version")
            objects = self._number("SELECT count(*) FROM sqlite_master")
            if version > FORMAT:
                raise StoreTooNew(
                    f"{self.path} has format {version}, and this version of Isthmus knows "
                    f"{FORMAT}: run the version that wrote it, or a newer one"
                )
            if not objects:
                self._create(group, region, tables)
            elif self._number("PRAGMA application_id") != _APPLICATION_ID or version < FORMAT:
                raise StoreCorrupt(f"{self.path} is not a store of Isthmus: {self.remedy}")
            self._check("group", group)
            self._check("region", region)
            self.writer.execute(
                "INSERT OR REPLACE INTO meta VALUES ('contract_digest', ?)", (digest,)
            )
            self.reader = self.connect()
            self._checkpoints = Checkpoints(group, self.connect())
        if new:
            for folder in (self.path.parent, self.path.parent.parent):
                _sync_folder(folder)

    def _create(self, group: str, region: str, tables: Iterable[str]) -> None:
        with self.transaction() as cursor:
            for statement in "".join((_META, *tables)).split(";"):
                cursor.execute(statement)
            cursor.execute(f"PRAGMA application_id={_APPLICATION_ID}")
            cursor.execute(f"PRAGMA user_version={FORMAT}")
            rows = (("group", group.encode()), ("region", region.encode()))
            cursor.executemany("INSERT INTO meta VALUES (?, ?)", rows)

    def _check(self, name: str, value: str) -> None:
        row = self.writer.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        found = row[0].decode() if row else "none"
        if found != value:
            raise StoreMismatch(f"{self.path} belongs to {name} {found!r}, not to {value!r}")

    def _number(self, query: str) -> int:
        value = self.writer.execute(query).fetchone()[0]
        assert isinstance(value, int)  # noqa: S101 # these queries give numbers
        return value

    def connect(self) -> sqlite3.Connection:
        """One more connection; its user closes it."""
        connection = sqlite3.connect(
            self.path, isolation_level=None, check_same_thread=False, timeout=10
        )
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA wal_autocheckpoint=0")
        self.path.chmod(0o600)
        return connection

    def close(self) -> None:
        """Lets go of the file."""
        if self._checkpoints is not None:
            self._checkpoints.close()
        self.reader.close()
        self.writer.close()
        os.close(self._lock)

    @contextmanager
    def transaction(self, *, synced: bool = True) -> Iterator[sqlite3.Cursor]:
        """A transaction that writes; it is undone if its body raises. Raises `StoreError`s.

        One that is not `synced` may be undone by a power cut, whole, with all that came after it
        and was not synced.
        """
        if self._broken is not None:
            raise self._broken
        with self.translated():
            cursor = self.writer.cursor()
            try:
                if synced != self._synced:
                    cursor.execute(f"PRAGMA synchronous={'FULL' if synced else 'NORMAL'}")
                    self._synced = synced
                cursor.execute("BEGIN IMMEDIATE")
                yield cursor
                cursor.execute("COMMIT")
                if self._checkpoints is not None:
                    self._checkpoints.written(cursor)
            except BaseException:
                if self.writer.in_transaction:
                    self.writer.rollback()
                raise
            finally:
                cursor.close()

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Raises SQLite's errors as `StoreError`s."""
        try:
            yield
        except sqlite3.Error as error:
            raise self._translate(error) from error

    def _translate(self, error: sqlite3.Error) -> StoreError:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            return StoreFull(f"no space is left for {self.path}: make room, writes resume then")
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return StoreCorrupt(f"{self.path} is damaged ({error}): {self.remedy}")
        if code == sqlite3.SQLITE_IOERR:
            self._broken = StoreBroken(
                f"{self.path}: {error}: the last commit is in doubt; look at the disk, and restart"
            )
            return self._broken
        return StoreError(f"{self.path}: {error}")


def set_aside(folder: Path, group: str) -> Path | None:
    """Moves a group's database out of the way; None if there is none. Returns where it is.

    Raises `StoreLocked` while a process has it open.
    """
    path = folder / f"{group}.sqlite3"
    if not path.exists():
        return None
    lock = os.open(folder / f"{group}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        taken = (folder / f"{group}.set-aside-{number}" for number in itertools.count(1))
        aside = next(each for each in taken if not each.exists())
        aside.mkdir(mode=0o700)
        # The database last: a new one must not meet the log of the old.
        for each in sorted(folder.glob(f"{path.name}*"), reverse=True):
            each.rename(aside / each.name)
        _sync_folder(folder)
    except BlockingIOError:
        raise StoreLocked(f"{path} is open in another process: stop that one") from None
    finally:
        os.close(lock)
    return aside


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
