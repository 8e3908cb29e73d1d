"""The write-ahead log is emptied beside the commits."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

from mesh.replication.store import checkpoints
from mesh.replication.store.database import Database

TABLES = ("CREATE TABLE notes (number INTEGER PRIMARY KEY, body BLOB NOT NULL);",)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with patch.object(checkpoints, "EVERY_SECONDS", 0.01):
        made = Database(tmp_path / "eu", "notes", "eu", b"", TABLES)
        yield made
        made.close()


def write(database: Database, most: int, size: int) -> None:
    for number in range(most):
        with database.transaction() as cursor:
            cursor.execute("INSERT INTO notes (body) VALUES (?)", (bytes([number % 256]) * size,))


def moved_all(database: Database) -> bool:
    """Whether the database itself, without the log, has all rows."""
    with sqlite3.connect(f"file:{database.path}?immutable=1", uri=True) as reader:
        try:
            return bool(reader.execute("SELECT count(*) FROM notes").fetchone()[0] == 100)
        except sqlite3.DatabaseError:  # it is being written
            return False


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_what_was_committed_comes_into_the_database(database: Database) -> None:
    write(database, 100, 10_000)
    wait_until(lambda: moved_all(database))


def test_a_long_log_begins_anew(database: Database) -> None:
    log = database.path.with_name(database.path.name + "-wal")
    with patch.object(checkpoints, "LONGEST_LOG", 50):
        write(database, 1000, 10_000)
    assert log.stat().st_size < 1000 * 10_000


def test_a_failure_is_logged_and_tried_again(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    true = checkpoints.move
    tried = 0

    def fails_once(cursor: sqlite3.Cursor) -> int:
        nonlocal tried
        tried += 1
        if tried == 1:
            raise sqlite3.OperationalError("disk I/O error")
        return true(cursor)

    with patch.object(checkpoints, "move", fails_once):
        write(database, 50, 10)
        wait_until(lambda: tried >= 1)
        write(database, 50, 10)
        wait_until(lambda: moved_all(database))
    assert "disk I/O error" in caplog.text
