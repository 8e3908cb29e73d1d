"""The SQLite store: what it keeps, and how it refuses."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from isthmus.channels.v1 import channel_pb2
from isthmus.replication.v1 import snapshot_pb2

from mesh.replication import errors
from mesh.replication.core import snapshots
from mesh.replication.core.batches import Recovered
from mesh.replication.core.entities import encode
from mesh.replication.core.journal import Journal
from mesh.replication.core.life import LifeStart
from mesh.replication.core.receipts import KEPT_MS, Receipt
from mesh.replication.store import keys
from mesh.replication.store.sqlite import SqliteStore
from mesh.replication.transaction import Transaction
from tests.support.regions import CHANNEL, FIRST_OPERATOR, SCHEMA

Channel = channel_pb2.Channel


def open_store(folder: Path, group: str = "channels", region: str = "eu") -> SqliteStore:
    return SqliteStore(folder, group, region, b"digest", [CHANNEL])


class Writer:
    """A journal over a store, without a committer."""

    def __init__(self, store: SqliteStore, now_ms: int = 1_000_000, region: str = "eu") -> None:
        self.store = store
        self.journal = Journal(region, [], b"digest", store.recover(), now_ms)

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


def test_a_state_is_read_as_it_was_flushed_unless_its_checksum_says_otherwise(
    tmp_path: Path,
) -> None:
    store = open_store(tmp_path)
    writer = Writer(store)
    writer.write("c1", "flushed")
    writer.commit()
    assert store.flushed() == {writer.journal.origin: 0} and store.stored((CHANNEL, "c1")) == b""
    writer.flush()
    flushed = encode(writer.journal.committed[CHANNEL, "c1"])
    writer.write("c1", "later")
    writer.commit()
    assert store.flushed() == {writer.journal.origin: 1}
    assert store.stored((CHANNEL, "c1")) == flushed
    with sqlite3.connect(next(tmp_path.rglob("*.sqlite3"))) as database:
        database.execute("UPDATE states SET state = ?", (flushed + b"1",))
    assert store.stored((CHANNEL, "c1")) is None
    store.close()


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

    store._database.writer.set_trace_callback(trace)
    store._database.writer.set_progress_handler(crash, 1)
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
    pages = store._database.writer.execute("PRAGMA page_count").fetchone()[0]
    store._database.writer.execute(f"PRAGMA max_page_count={pages}")
    writer.write("c1", "x" * 50_000)
    batch = writer.journal.next_batch()
    assert batch is not None
    with pytest.raises(errors.StoreFull, match="no space"):
        store.commit(batch)
    writer.journal.failed(batch)
    assert len(store.history((CHANNEL, "c1"), 10)) == 1
    store._database.writer.execute("PRAGMA max_page_count=100000")
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
    with pytest.raises(errors.StoreCorrupt, match="--set-aside channels"):
        open_store(tmp_path)


@pytest.mark.parametrize(
    ("damage", "left", "loose"),
    [
        ("UPDATE frames SET body = substr(body, 1, length(body) - 1) WHERE place = 2", 1, [2, 3]),
        ("DELETE FROM frames WHERE place = 2", 1, [3]),
        ("DELETE FROM frames WHERE place = 3", 2, []),
        ("UPDATE frames SET hash = zeroblob(32) WHERE place = 1", 0, [1, 2, 3]),
    ],
)
def test_a_journal_that_was_tampered_with_is_cut_there(
    tmp_path: Path, damage: str, left: int, loose: list[int]
) -> None:
    store = open_store(tmp_path)
    writer = Writer(store)
    for step in range(3):
        writer.write("c1", f"t{step}")
        writer.commit()
    origin = writer.journal.origin
    store.close()
    _damage(tmp_path, damage)
    for _ in range(2):  # and is the same when it is opened again
        store = open_store(tmp_path)
        recovered = store.recover()
        store.close()
        assert recovered.vector == ({origin: left} if left else {})
        assert [frame.last for frame in recovered.loose] == loose
        assert recovered.cut == ([(origin, left + 1)] if _ == 0 else [])
    journal = Journal("eu", ["us"], b"", recovered, 2_000_000)
    assert (journal.origin == origin) == (not loose and bool(left))


def test_where_nothing_is_left_to_cut_to_the_store_is_refused(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    writer = Writer(store)
    for step in range(2):
        writer.write("c1", f"t{step}")
        writer.commit()
        if not step:
            store.flush(writer.journal.committed, dict(writer.journal.vector))
    store.close()
    _damage(tmp_path, "UPDATE frames SET hash = zeroblob(32)")
    store = open_store(tmp_path)
    with pytest.raises(errors.StoreCorrupt, match="members restore eu --set-aside channels"):
        store.recover()
    store.close()


def test_a_cut_goes_back_to_the_watermark(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    writer = Writer(store)
    for step in range(3):
        writer.write("c1", f"t{step}")
        writer.commit()
        if not step:
            store.flush(writer.journal.committed, dict(writer.journal.vector))
            head = writer.journal.head(writer.journal.origin)
    store.close()
    _damage(tmp_path, "DELETE FROM frames WHERE place = 2")
    store = open_store(tmp_path)
    origin = writer.journal.origin
    recovered = store.recover()
    assert recovered.cut == [(origin, 2)] and [f.last for f in recovered.loose] == [3]
    journal = Journal("eu", ["us"], b"", recovered, 2_000_000)
    assert journal.head(origin) == head
    assert journal.life.start is LifeStart.DAMAGED_JOURNAL and journal.origin > origin
    assert not journal.arrivals.waiting  # what is loose does not follow from the head
    store.close()


def test_keys_that_signed_nothing_held_are_forgotten(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    writer = Writer(store)
    writer.write("c1", "a")
    writer.commit()
    store.close()
    _damage(tmp_path, "UPDATE frames SET signature = cast('k-in-a-frame-000' || 'sig' AS BLOB)")
    _damage(tmp_path, "UPDATE positions SET signature = cast('k-at-a-head-0000' || 's' AS BLOB)")

    def add(count: int) -> None:
        connection = sqlite3.connect(tmp_path / "channels.sqlite3")
        names = ["k-in-a-frame-000", "k-at-a-head-0000", *(f"k-{n:014}" for n in range(count))]
        connection.executemany(
            "INSERT OR REPLACE INTO keys VALUES (?, ?)", [(n.encode(), n.encode()) for n in names]
        )
        connection.commit()
        connection.close()

    def kept() -> set[bytes]:
        store = open_store(tmp_path)
        found = store.recover().keys
        store.close()
        return set(found)

    add(keys.KEPT - 2)
    assert len(kept()) == keys.KEPT
    add(keys.KEPT)
    assert kept() == {b"k-in-a-frame-000", b"k-at-a-head-0000"}


def _damage(folder: Path, statement: str) -> None:
    connection = sqlite3.connect(folder / "channels.sqlite3")
    connection.execute(statement)
    connection.commit()
    connection.close()


def test_receipts_are_kept_for_a_day(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    writer = Writer(store)
    writer.write("c1", "a", Receipt("first", "m", "old", b"d", "type", b"r", 1000))
    writer.commit()
    found = store.receipt("first", "m", "old")
    assert found is not None and found.response == b"r"
    assert store.receipt("second", "m", "old") is None
    later = 1_000_001 + KEPT_MS
    writer.write("c1", "b", Receipt("first", "m", "new", b"d", "type", b"r", later), later)
    writer.commit()
    assert store.receipt("first", "m", "old") is None
    assert store.receipt("first", "m", "new") is not None
    store.close()


def test_the_journal_is_cut_below_the_vector_and_the_watermark(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    writer = Writer(store)
    origin = writer.journal.origin
    for number in range(6):
        writer.write("c1", f"title {number}")
        writer.commit()
        if number == 3:
            writer.flush()
    everything = {origin: 6}
    size = store.journal_bytes
    assert not store.trim(everything, size)  # so much is kept
    assert not store.trim({}, 0)
    assert store.trim({origin: 2}, 0) and not store.trim({origin: 2}, 0)
    assert [frame.first for frame in store.after(origin, 0, 1 << 20)] == [3, 4, 5, 6]
    assert store.trim(everything, 0) and not store.trim(everything, 0)
    left = store.after(origin, 0, 1 << 20)
    assert [frame.first for frame in left] == [5, 6]
    assert store.journal_bytes == sum(len(frame.body) for frame in left) < size
    store.close()
    store = open_store(tmp_path)
    assert store.journal_bytes == sum(len(frame.body) for frame in left)
    assert same(store.recover(), writer.journal)
    store.close()


def test_a_journal_that_is_cut_to_nothing_goes_on(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    writer = Writer(store)
    writer.write("c1", "a")
    writer.commit()
    writer.flush()
    assert store.trim(writer.journal.vector, 0)
    store.close()
    store = open_store(tmp_path)
    again = Writer(store)
    assert same(store.recover(), writer.journal)
    again.flush()
    again.write("c1", "b")
    again.commit()
    store.close()
    store = open_store(tmp_path)
    assert same(store.recover(), again.journal)
    store.close()


def test_old_frames_go_first_and_as_many_as_are_too_much(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    writer = Writer(store)
    for number in range(10):
        writer.write("c1", f"title {number}")
        writer.commit()
    writer.flush()
    keep = store.journal_bytes // 2
    while store.trim(writer.journal.vector, keep):
        pass
    left = store.after(writer.journal.origin, 0, 1 << 20)
    assert keep <= store.journal_bytes < keep + len(left[0].body)
    assert left[-1].last == 10
    store.close()


def given(source: Writer, target: Writer, pieces: int | None = None) -> None:
    """Hands a snapshot over, whole or in part, by way of the target's store."""
    intake = target.journal.intake
    request = intake.accept("us", 1_000_000)
    assert request is not None
    capture = source.journal.capture(request.id, 1_000_000, target.journal.vector)
    first = request.pieces if request.id == capture.header.id else 0
    start = snapshot_pb2.SnapshotStart(header=capture.header.encode(), first_piece=first)
    intake.started("us", start, target.journal, 1_000_000)
    number = first
    while capture.has(number) and number != pieces:
        piece = capture.piece(number, source.store.receipts)
        message = snapshot_pb2.SnapshotPiece(id=capture.header.id, **piece._asdict())
        intake.piece("us", message, 1_000_000)
        target.commit()
        number += 1
    if intake.ready:
        target.commit()


def test_a_snapshot_is_staged_installed_and_recovered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "PIECE_BYTES", 150)
    source = Writer(open_store(tmp_path / "us", region="us"), region="us")
    receipt = Receipt("a", "m", "r1", b"d", "T", b"result", 1_000_000)
    for number in range(8):
        source.write(f"c{number}", "a", receipt if number == 3 else None)
        source.commit()
    target = Writer(open_store(tmp_path / "eu"))
    target.write("own", "mine")
    target.commit()
    given(source, target, pieces=3)
    assert (CHANNEL, "c0") not in target.store.recover().states
    target.store.close()
    target = Writer(open_store(tmp_path / "eu"))
    progress = target.journal.intake.progress
    assert progress is not None and progress.peer == "us" and progress.taken
    source.write("c1", "later")
    source.commit()
    given(source, target)
    target.write("c2", "on top")
    target.commit()
    store = target.store
    assert store.receipt("a", "m", "r1") == receipt
    store.close()
    store = open_store(tmp_path / "eu")
    found = store.recover()
    assert same(found, target.journal) and found.staged is None
    assert found.heads[source.journal.origin] != bytes(32)
    store.close()
    source.store.close()


def test_what_a_snapshot_makes_of_damage_is_stored_as_damaged(tmp_path: Path) -> None:
    source = Writer(open_store(tmp_path / "us", region="us"), region="us")
    for key in ("c1", "c2", "c3"):
        source.write(key, "a")
        source.commit()
    target = Writer(open_store(tmp_path / "eu"))
    given(source, target)
    target.journal.digest()  # all is hashed
    source.write("c2", "b")
    source.write("c3", "b")
    source.commit()
    damaged = (CHANNEL, "c2")
    state = target.journal.committed[damaged]
    target.journal.committed[damaged] = state._replace(cells={})
    given(source, target)
    assert target.journal.integrity.damages.wanted(damaged) is not None
    target.store.close()
    store = open_store(tmp_path / "eu")
    found = store.recover()
    assert set(found.damaged) == {damaged}
    assert found.states == {
        entity: state for entity, state in source.journal.committed.items() if entity != damaged
    }
    store.close()
    source.store.close()
