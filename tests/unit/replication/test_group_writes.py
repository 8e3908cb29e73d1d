"""What services see of a group: reads, writes, repeats, history, watching."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from isthmus.channels.v1 import channel_pb2
from isthmus.devices.v1 import device_pb2

from mesh.replication import (
    AlreadyExists,
    Batch,
    Group,
    GroupClosed,
    NotFound,
    NotReplicated,
    RequestIdReused,
    Snapshot,
    Transaction,
    WatcherTooSlow,
    WriteContext,
    WriteNotStored,
)
from mesh.replication import committer as committing
from mesh.replication import watch as watching
from mesh.replication.core.generations import DAY_MS
from mesh.replication.errors import SchemaError, StoreFull, WriteTooLarge
from tests.support.regions import CHANNEL, FIRST_OPERATOR, contract

Channel = channel_pb2.Channel


class Clock:
    def __init__(self) -> None:
        self.ns = 1_700_000_000_000_000_000

    def __call__(self) -> int:
        self.ns += 1_000_000
        return self.ns


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def group(tmp_path: Path, clock: Clock) -> AsyncIterator[Group]:
    opened = await open_group(tmp_path, clock)
    yield opened
    await opened.close()


async def open_group(folder: Path, clock: Clock) -> Group:
    return await Group.open(
        contract(), "channels", region="eu", peers=["eu"], folder=folder, clock=clock
    )


def create(key: str = "c1", title: str = "news", **fields: object):
    def change(tx: Transaction) -> Channel:
        message = Channel(channel_id=key, title=title, **fields)
        tx.create(message)
        return message

    return change


def change(method: str, *arguments: object):
    def run(tx: Transaction) -> Channel:
        getattr(tx, method)(*arguments)
        return Channel()

    return run


async def test_what_is_written_is_read(group: Group) -> None:
    written = Channel(
        channel_id="c1",
        title="news",
        labels=["b", "a"],
        takeovers=-3,
        source=channel_pb2.Source(file="a.mp4"),
        profile=channel_pb2.Profile(width=320),
        assignment=channel_pb2.Assignment(epoch=1, region="eu", device_id="d1"),
    )
    await group.write(lambda tx: (tx.create(written), written)[1], FIRST_OPERATOR)
    read = group.get(Channel, "c1")
    assert read is not None
    assert list(read.labels) == ["a", "b"]
    del written.labels[:]
    del read.labels[:]
    assert read == written
    assert group.list(Channel)[0].channel_id == "c1"
    assert group.status().entities == 1


async def test_every_kind_of_change(group: Group) -> None:
    await group.write(create(labels=["a", "b"]), FIRST_OPERATOR)
    await group.write(change("add", Channel, "c1", "labels", "c"), FIRST_OPERATOR)
    await group.write(change("remove", Channel, "c1", "labels", "a", "unknown"), FIRST_OPERATOR)
    await group.write(change("increment", Channel, "c1", "takeovers", 5), FIRST_OPERATOR)
    await group.write(change("increment", Channel, "c1", "takeovers", -2), FIRST_OPERATOR)
    message = Channel(channel_id="c1", profile=channel_pb2.Profile(width=1, height=2))
    await group.write(change("set", message, "title", "profile"), FIRST_OPERATOR)
    message.profile.width = 7
    await group.write(change("set", message, "profile.width"), FIRST_OPERATOR)
    found = group.get(Channel, "c1")
    assert list(found.labels) == ["b", "c"]
    assert (found.takeovers, found.title) == (3, "")
    assert (found.profile.width, found.profile.height) == (7, 2)


async def test_a_maximum_only_grows(group: Group) -> None:
    def assign(epoch: int, region: str) -> Channel:
        assignment = channel_pb2.Assignment(epoch=epoch, region=region)
        return Channel(channel_id="c1", assignment=assignment)

    await group.write(create(), FIRST_OPERATOR)
    for epoch, region in ((2, "eu"), (1, "us"), (2, "ap"), (2, "eu-2"), (10, "a")):
        await group.write(change("set", assign(epoch, region), "assignment"), FIRST_OPERATOR)
        found = group.get(Channel, "c1").assignment
        assert (found.epoch, found.region) >= (epoch, region)
    assert (found.epoch, found.region) == (10, "a")


async def test_several_changes_of_one_entity_in_one_write(group: Group) -> None:
    def run(tx: Transaction) -> Channel:
        tx.create(Channel(channel_id="c1", title="one"))
        tx.add(Channel, "c1", "labels", "a")
        tx.add(Channel, "c1", "labels", "b")
        tx.remove(Channel, "c1", "labels", "a")
        tx.increment(Channel, "c1", "takeovers", 1)
        tx.increment(Channel, "c1", "takeovers", 1)
        tx.delete(Channel, "c1")
        tx.create(Channel(channel_id="c1", title="two", labels=["z"]))
        tx.increment(Channel, "c1", "takeovers", 3)
        assert tx.list(Channel)[0] == tx.get(Channel, "c1")
        return tx.get(Channel, "c1")

    written = await group.write(run, FIRST_OPERATOR)
    assert group.get(Channel, "c1") == written
    assert written == Channel(channel_id="c1", title="two", labels=["z"], takeovers=3)
    first = group.now_ms() // DAY_MS
    assert group.get_view(Channel, "c1").generation == first + 1


async def test_what_cannot_be_done_leaves_nothing(group: Group) -> None:
    await group.write(create(), FIRST_OPERATOR)
    message = Channel(channel_id="c1")
    for expected, run in (
        (AlreadyExists, create()),
        (NotFound, change("delete", Channel, "c2")),
        (NotFound, change("set", Channel(channel_id="c2"), "title")),
        (NotReplicated, change("set", message, "labels")),
        (NotReplicated, change("set", message, "channel_id")),
        (NotReplicated, change("set", message, "nothing")),
        (NotReplicated, change("add", Channel, "c1", "title", "x")),
        (NotReplicated, change("create", Channel())),
        (NotReplicated, change("create", device_pb2.Device(device_id="d"))),
        (WriteTooLarge, create("c3", "x" * (4 << 20))),
    ):
        with pytest.raises(expected):
            await group.write(run, FIRST_OPERATOR)

    def half(tx: Transaction) -> Channel:
        tx.delete(Channel, "c1")
        raise KeyError("a mistake")

    with pytest.raises(KeyError):
        await group.write(half, FIRST_OPERATOR)
    assert [c.channel_id for c in group.list(Channel)] == ["c1"]
    assert group.status().vector.positions[0].sequence == 1


async def test_a_deleted_entity_leaves_a_tombstone(group: Group) -> None:
    await group.write(create(), FIRST_OPERATOR)
    await group.write(change("delete", Channel, "c1"), WriteContext("operator/second"))
    assert group.get(Channel, "c1") is None and group.list(Channel) == []
    view = group.get_view(Channel, "c1")
    assert view.deleted and view.value == b"" and view.last_change.actor == "operator/second"
    await group.write(create(), FIRST_OPERATOR)
    assert group.get_view(Channel, "c1").generation == view.generation + 1
    assert group.get_view(Channel, "c2") is None


async def test_a_repeat_has_one_effect(group: Group, tmp_path: Path, clock: Clock) -> None:
    context = WriteContext("operator/first", request_id="r1", method="m", request_digest=b"d")
    first = await group.write(create(), context)
    assert await group.write(create(), context) == first
    with pytest.raises(RequestIdReused):
        await group.write(create(), WriteContext("operator/first", "", "r1", "m", b"other"))
    # Another's id, and the same id for another method, are other operations.
    with pytest.raises(AlreadyExists):
        await group.write(create(), WriteContext("operator/second", "", "r1", "m", b"d"))
    with pytest.raises(AlreadyExists):
        await group.write(create(), WriteContext("operator/first", "", "r1", "n", b"d"))
    clock.ns += 25 * 3600 * 1_000_000_000
    with pytest.raises(AlreadyExists):
        await group.write(create(), context)


async def test_repeats_in_flight_share_one_effect(group: Group) -> None:
    await group.write(create(), FIRST_OPERATOR)
    context = WriteContext("operator/first", request_id="r1", method="m")
    one_more = change("increment", Channel, "c1", "takeovers")
    await asyncio.gather(*(group.write(one_more, context) for _ in range(10)))
    assert group.get(Channel, "c1").takeovers == 1


async def test_a_receipt_survives_a_restart(tmp_path: Path, clock: Clock) -> None:
    context = WriteContext("operator/first", request_id="r1", method="m")
    group = await open_group(tmp_path, clock)
    first = await group.write(create(), context)
    await group.close()
    group = await open_group(tmp_path, clock)
    assert await group.write(create(), context) == first
    assert group.get(Channel, "c1") == first
    await group.close()
    with pytest.raises(GroupClosed):
        await group.write(create("c2"), FIRST_OPERATOR)


async def test_what_a_crash_left_unflushed_is_flushed_by_the_next_life(
    tmp_path: Path, clock: Clock
) -> None:
    group = await open_group(tmp_path / "first", clock)
    await group.write(create("c1"), FIRST_OPERATOR)
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in (tmp_path / "first").glob("channels.sqlite3*"):
        (copy / file.name).write_bytes(file.read_bytes())
    await group.close()
    for key in ("c2", "c3"):
        group = await open_group(copy, clock)
        await group.write(create(key), FIRST_OPERATOR)
        await group.close()
    group = await open_group(copy, clock)
    assert [channel.channel_id for channel in group.list(Channel)] == ["c1", "c2", "c3"]
    await group.close()


async def test_commits_go_between_the_pieces_of_a_flush(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        await group.write(create(f"c{number}"), FIRST_OPERATOR)
    monkeypatch.setattr(committing, "_FLUSH_PIECE", 1)
    steps: list[str] = []
    flush, commit = group._store.flush, group._store.commit
    monkeypatch.setattr(
        group._store, "flush", lambda *given: (steps.append("flush"), flush(*given))[1]
    )
    monkeypatch.setattr(
        group._store, "commit", lambda batch: (steps.append("commit"), commit(batch))[1]
    )
    flushing = asyncio.create_task(group._committer.flush())
    await asyncio.gather(flushing, group.write(create("c4"), FIRST_OPERATOR))
    assert steps.count("flush") == 4
    assert "commit" in steps[1:3]


@pytest.mark.parametrize("ended", ["full disk", "close"])
async def test_a_flush_that_is_not_whole_loses_nothing(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, ended: str
) -> None:
    monkeypatch.setattr(committing, "_FLUSH_PIECE", 1)
    group = await open_group(tmp_path, clock)
    for number in range(4):
        await group.write(create(f"c{number}", "first"), FIRST_OPERATOR)
    flush, pieces = group._store.flush, []

    def piece(*given: object) -> None:
        pieces.append(given)
        if len(pieces) == 3:
            if ended == "close":
                loop.call_soon_threadsafe(flushing.cancel)
            else:
                raise StoreFull("no space")
        flush(*given)

    monkeypatch.setattr(group._store, "flush", piece)
    loop = asyncio.get_running_loop()
    flushing = asyncio.create_task(group._committer.flush())
    await asyncio.gather(flushing, return_exceptions=True)
    for number in range(4):
        await group.write(create(f"d{number}", "second"), FIRST_OPERATOR)
    # A crash now finds some states that are newer than the watermark.
    copy = tmp_path / "crashed"
    copy.mkdir()
    for file in tmp_path.glob("channels.sqlite3*"):
        shutil.copy(file, copy)
    crashed = await open_group(copy, clock)
    assert crashed.journal.digest() == group.journal.digest()
    await crashed.close()
    # The next flush is whole: what it promises is stored.
    await group.close()
    again = await open_group(tmp_path, clock)
    assert again.journal.digest() == group.journal.digest()
    assert not again._committer._unflushed
    await again.close()


async def test_writers_share_commits(group: Group) -> None:
    await asyncio.gather(*(group.write(create(f"c{i}"), FIRST_OPERATOR) for i in range(500)))
    assert group.status().entities == 500
    assert len(group.log.after(group.journal.origin, 0, 1 << 30)) < 20


async def test_history_says_who_did_what(group: Group) -> None:
    trace = "00-" + "1" * 32 + "-" + "2" * 16 + "-01"
    await group.write(create(labels=["x"]), FIRST_OPERATOR)
    message = Channel(channel_id="c1", profile=channel_pb2.Profile(width=5))
    second = WriteContext("operator/second", trace, "r1", "m")
    await group.write(change("set", message, "profile.width"), second)
    await group.write(change("delete", Channel, "c1"), FIRST_OPERATOR)
    deleted, updated, created = group.history(Channel, "c1")
    assert created.fields == ("title", "labels")
    assert updated.fields == ("profile.width",)
    assert (updated.actor, updated.trace_parent) == ("operator/second", trace)
    assert updated.request_id == "r1" and updated.origin.region == "eu"
    assert deleted.deleted and not updated.deleted
    assert created.time_ms < updated.time_ms < deleted.time_ms
    assert group.history(Channel, "c2") == []


async def test_other_threads_see_a_recent_status(group: Group) -> None:
    for key in ("c1", "c2"):
        await group.write(create(key), FIRST_OPERATOR)
    await group.write(change("delete", Channel, "c1"), FIRST_OPERATOR)
    now = group.status()
    assert now.entities == 1
    assert await asyncio.to_thread(group.status) == now


async def test_watching(group: Group) -> None:
    await group.write(create(), FIRST_OPERATOR)
    events = group.watch([Channel])
    first = await anext(events)
    assert isinstance(first, Snapshot)
    assert [view.message.title for view in first.entities] == ["news"]
    assert first.reach["eu"].reachable
    message = Channel(channel_id="c1", title="later")
    await group.write(change("set", message, "title"), WriteContext("operator/second"))
    await group.write(change("delete", Channel, "c1"), FIRST_OPERATOR)
    seen: list = []
    while len(seen) < 2:
        event = await anext(events)
        if isinstance(event, Batch):
            seen += event.changes
    updated, deleted = seen
    assert (updated.old.message.title, updated.new.message.title) == ("news", "later")
    assert updated.new.last_change.actor == "operator/second"
    assert deleted.new.deleted and deleted.old == updated.new
    await events.aclose()


async def test_a_slow_watcher_is_told_so(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "QUEUE_LENGTH", 3)
    events = group.watch()
    await anext(events)
    for number in range(5):
        await group.write(create(f"c{number}"), FIRST_OPERATOR)
    with pytest.raises(WatcherTooSlow, match="watch again"):
        await anext(events)
    again = group.watch()
    assert len((await anext(again)).entities) == 5
    await again.aclose()


async def test_a_watch_ends_with_its_group(tmp_path: Path, clock: Clock) -> None:
    group = await open_group(tmp_path, clock)
    events = group.watch()
    await anext(events)
    waiting = asyncio.ensure_future(anext(events))
    await asyncio.sleep(0)
    await group.close()
    with pytest.raises(GroupClosed):
        # The first change of reach may be on its way.
        await waiting
        await anext(events)


async def test_a_full_disk_fails_writes_and_serves_reads(group: Group) -> None:
    await group.write(create(), FIRST_OPERATOR)
    writer = group.log._database.writer  # the store's own connection
    pages = writer.execute("PRAGMA page_count").fetchone()[0]
    writer.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(WriteNotStored) as failure:
        await group.write(create("c2", "x" * 100_000), FIRST_OPERATOR)
    assert isinstance(failure.value.__cause__, StoreFull)
    assert [c.channel_id for c in group.list(Channel)] == ["c1"]
    writer.execute("PRAGMA max_page_count=1000000")
    await group.write(create("c2"), FIRST_OPERATOR)
    assert len(group.list(Channel)) == 2


async def test_a_contract_that_is_not_loaded_is_refused(tmp_path: Path) -> None:
    def none(name: str):
        raise KeyError(name)

    with pytest.raises(SchemaError, match="import its module"):
        await Group.open(
            contract(), "channels", region="eu", peers=[], folder=tmp_path, class_of=none
        )


async def test_the_real_contract_opens(tmp_path: Path) -> None:
    from mesh.contracts import load

    for name in ("channels", "devices"):
        group = await Group.open(load(), name, region="eu", peers=["us"], folder=tmp_path)
        assert group.link_max_age == 3600
        await group.close()
    assert CHANNEL in load().entities
