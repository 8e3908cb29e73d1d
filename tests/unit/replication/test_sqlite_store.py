"""The SQLite store: what it keeps, and how it refuses."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from isthmus.channels.v1 import channel_pb2

from mesh.replication import errors
from mesh.replication.core.journal import Journal, Recovered
from mesh.replication.core.receipts import Receipt
from mesh.replication.store.sqlite import RECEIPTS_KEPT_MS, SqliteStore
from mesh.replication.transaction import Transaction
from tests.support.regions import CHANNEL, FIRST_OPERATOR, SCHEMA

Channel = channel_pb2.Channel


def open_store(folder: Path, group: str = "channels", region: str = "eu") -> SqliteStore:
    return SqliteStore(folder, group, region, b"digest", [CHANNEL])


class Writer:
    """A journal over a store, without a committer."""

    def __init__(self, store: SqliteStore, now_ms: int = 1_000_000) -> None:
        self.store = store
        self.journal = Journal("eu", [], b"digest", store.recover(), now_ms)

    def write(
        self, key: str, title: str, receipt: Receipt | None = None, now_ms: int = 1_000_000
    ) -> None:
        transaction = Transaction(self.journal, SCHEMA, FIRST_OPERATOR, now_ms)
        if transaction.get(Channel, key) is None:
            transaction.create(Channel(channel_id=key, title=title, labels=["l"]))
        else:
            transaction.set(Channel(channel_id=key, title=title), "title")
        self.journal.submit(transaction.finish(receipt))

    def commit(self) -> None:
        batch = self.journal.next_batch()
        assert batch is not None
        self.store.commit(batch)
        self.journal.stored(batch)

    def flush(self) -> None:
        self.store.flush(self.journal.committed, self.journal.vector)


def same(one: Recovered, journal: Journal) -> bool:
    return (
        one.states == journal.committed
        and one.vector == journal.vector
        and one.clock <= journal.clock.last
    )


@pytest.mark.parametrize("flushed_after", [None, 0, 1, 2, 3])
def test_recovery_is_flushed_state_and_the_journal_above_it(
    tmp_path: Path, flushed_after: int | None
) -> None:
    store = open_store(tmp_path)
    writer = Writer(store)
    for step in range(4):
        writer.write("c1", f"t{step}")
        writer.write(f"c{step}", "x")
        writer.commit()
        if step == flushed_after:
            writer.flush()
    store.close()
    again = open_store(tmp_path)
    recovered = again.recover()
    assert same(recovered, writer.journal)
    journal = Journal("eu", [], b"digest", recovered, 2_000_000)
    assert journal.digest() == writer.journal.digest()
    assert journal.origin == writer.journal.origin
    # The chain goes on where it stopped.
    further = Writer(again)
    further.write("c9", "on")
    further.commit()
    further.flush()
    assert same(again.recover(), further.journal)
    again.close()


class Crash(Exception):
    """Stands for the power cut."""


@pytest.mark.parametrize("statement", range(8))
def test_a_crash_inside_a_commit_leaves_all_of_it_or_nothing(
    tmp_path: Path, statement: int
) -> None:
    store = open_store(tmp_path)
    writer = Writer(store)
    writer.write("c1", "kept")
    writer.commit()
    receipt = Receipt("first", "m", "r", b"", "type", b"", 1)
    writer.write("c1", "lost", receipt)
    left = [statement]

    def trace(sql: str) -> None:
        if sql.startswith(("BEGIN", "INSERT", "DELETE", "COMMIT")):
            left[0] -= 1

    def crash() -> int:
        return int(left[0] < 0)

    store._writer.set_trace_callback(trace)
    store._writer.set_progress_handler(crash, 1)
    crashed = False
    try:
        writer.commit()
    except errors.StoreError:
        crashed = True
    # As after kill -9: nothing is said to the connections.
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in tmp_path.glob("channels.sqlite3*"):
        (copy / file.name).write_bytes(file.read_bytes())
    store.close()
    again = open_store(copy)
    recovered = again.recover()
    titles = {cell[3] for cell in recovered.states[CHANNEL, "c1"].cells.values() if len(cell) == 4}
    assert titles == ({b"\x12\x04kept"} if crashed else {b"\x12\x04lost"})
    assert (again.receipt("first", "m", "r") is None) == crashed
    assert len(again.history((CHANNEL, "c1"), 10)) == (1 if crashed else 2)
    again.close()


def test_a_full_disk_fails_the_write_and_nothing_else(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    writer = Writer(store)
    writer.write("c1", "kept")
    writer.commit()
    pages = store._writer.execute("PRAGMA page_count").fetchone()[0]
    store._writer.execute(f"PRAGMA max_page_count={pages}")
    writer.write("c1", "x" * 50_000)
    batch = writer.journal.next_batch()
    assert batch is not None
    with pytest.raises(errors.StoreFull, match="no space"):
        store.commit(batch)
    writer.journal.failed(batch)
    assert len(store.history((CHANNEL, "c1"), 10)) == 1
    store._writer.execute("PRAGMA max_page_count=100000")
    writer.write("c1", "again")
    writer.commit()
    assert same(store.recover(), writer.journal)
    store.close()


def test_a_store_has_one_process_one_group_and_one_region(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    with pytest.raises(errors.StoreLocked, match="another process"):
        open_store(tmp_path)
    store.close()
    with pytest.raises(errors.StoreMismatch, match="belongs to region 'eu', not to 'us'"):
        open_store(tmp_path, region="us")
    open_store(tmp_path).close()


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    open_store(tmp_path).close()
    connection = sqlite3.connect(tmp_path / "channels.sqlite3")
    connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(errors.StoreTooNew, match="format 99"):
        open_store(tmp_path)


def test_damage_is_named(tmp_path: Path) -> None:
    (tmp_path / "channels.sqlite3").write_bytes(b"no database at all" * 100)
    with pytest.raises(errors.StoreCorrupt, match="move it away"):
        open_store(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE frames SET body = substr(body, 1, length(body) - 1) WHERE place = 2",
        "DELETE FROM frames WHERE place = 2",
        "DELETE FROM frames WHERE place = 3",
        "UPDATE frames SET hash = zeroblob(32) WHERE place = 1",
    ],
)
def test_a_journal_that_was_tampered_with_is_noticed(tmp_path: Path, damage: str) -> None:
    store = open_store(tmp_path)
    writer = Writer(store)
    for step in range(3):
        writer.write("c1", f"t{step}")
        writer.commit()
    store.close()
    connection = sqlite3.connect(tmp_path / "channels.sqlite3")
    connection.execute(damage)
    connection.commit()
    connection.close()
    store = open_store(tmp_path)
    with pytest.raises(errors.StoreCorrupt):
        store.recover()
    store.close()


def test_receipts_are_kept_for_a_day(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    writer = Writer(store)
    writer.write("c1", "a", Receipt("first", "m", "old", b"d", "type", b"r", 1000))
    writer.commit()
    found = store.receipt("first", "m", "old")
    assert found is not None and found.response == b"r"
    assert store.receipt("second", "m", "old") is None
    later = 1001 + RECEIPTS_KEPT_MS
    writer.write("c1", "b", Receipt("first", "m", "new", b"d", "type", b"r", later), later)
    writer.commit()
    assert store.receipt("first", "m", "old") is None
    assert store.receipt("first", "m", "new") is not None
    store.close()
