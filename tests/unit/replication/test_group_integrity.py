"""Damage in a real group, in memory and in its database: found, named, counted, repaired."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from isthmus.channels.v1 import channel_pb2
from isthmus.replication.v1 import digest_pb2

from mesh.replication import Batch, Snapshot, committer, rereading
from mesh.replication.core import integrity
from mesh.replication.core.digest import Digest
from tests.support.regions import CHANNEL
from tests.unit.replication.test_group_links import Region, equal, regions, until

Channel = channel_pb2.Channel
KEYS = tuple(f"c{n}" for n in range(6))


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes and flushes follow one another at once."""
    monkeypatch.setattr(rereading, "PASS_SECONDS", 0.2)
    monkeypatch.setattr(integrity, "SCRUB_EVERY_MS", 200)
    monkeypatch.setattr(committer, "FLUSH_SECONDS", 0.3)


def status(region: Region) -> digest_pb2.IntegrityStatus:
    return region.group.status().integrity


def database(region: Region) -> sqlite3.Connection:
    path = region.root / region.name / "channels.sqlite3"
    return sqlite3.connect(path, isolation_level=None, timeout=10)


async def filled(eu: Region, *others: Region) -> None:
    """Some entities, changed more than once, flushed everywhere."""
    for title in ("first", "second"):
        for key in KEYS:
            await eu.title(key, title)
    await until(lambda: equal(eu, *others))
    for region in (eu, *others):
        await region.group._committer.flush()


async def whole_again(damaged: Region, *regions: Region) -> digest_pb2.IntegrityStatus:
    """Waits until something was found and all of it is repaired; everything is as it was."""
    await until(lambda: status(damaged).found > 0)
    await until(lambda: status(damaged).found == status(damaged).repaired)
    passes = status(damaged).disk_passes
    await until(lambda: status(damaged).disk_passes > passes + 1)
    found = status(damaged)
    assert found.found == found.repaired, "what was repaired is found again"
    assert all(corruption.HasField("repaired") for corruption in found.corruptions)
    for region in regions:
        journal = region.group.journal
        assert Digest(journal.committed).value() == journal.digest()
    assert equal(*regions)
    return found


def flips(count: int) -> Iterator[tuple[str, float, int]]:
    """Columns of stored states, where in them, and what of the byte."""
    chance = random.Random(7)  # noqa: S311 # repeatable on purpose
    for number in range(count):
        column = ("state", "hash", "key", "type", "bucket")[number % 5]
        yield column, chance.random(), chance.randrange(1, 256)


def flip(region: Region, table: str, column: str, row: str, at: float, by: int) -> None:
    """Changes one byte of one column of one row in the database."""
    with closing(database(region)) as connection:
        cast = f"CAST({column} AS BLOB)"
        query = f"SELECT {cast} FROM {table} WHERE {row}"  # noqa: S608 # names of this test
        (value,) = connection.execute(query).fetchone()
        data = bytearray(value)
        data[int(at * len(data))] ^= by
        changed: object = bytes(data)
        if column in ("bucket", "incarnation", "first", "last"):
            changed = int(value) ^ by << 8
        target = "CAST(? AS TEXT)" if column in ("type", "key", "region") else "?"
        change = f"UPDATE {table} SET {column} = {target} WHERE {row}"  # noqa: S608 # as above
        assert connection.execute(change, (changed,)).rowcount == 1


async def test_any_byte_of_a_stored_state_is_found_and_written_anew(tmp_path: Path) -> None:
    async with regions(tmp_path, "eu", "us") as (eu, us):
        await filled(eu, us)
        for column, at, by in flips(15):
            before = status(us).found
            flip(us, "states", column, "key = 'c3'", at, by)
            await until(lambda before=before: status(us).found > before)
            found = await whole_again(us, eu, us)
            assert {c.kind for c in found.corruptions} == {digest_pb2.CORRUPTION_KIND_STORED_STATE}
            assert "c3" in {c.entity.key for c in found.corruptions}
        with closing(database(us)) as connection:
            assert connection.execute("SELECT count(*) FROM states").fetchone() == (len(KEYS),)


async def test_a_state_that_is_gone_or_old_on_disk_is_written_anew(tmp_path: Path) -> None:
    async with regions(tmp_path, "eu", "us") as (eu, us):
        await filled(eu, us)
        with closing(database(us)) as connection:
            old = connection.execute("SELECT state, hash FROM states WHERE key = 'c1'").fetchone()
        await eu.title("c1", "third")
        await until(lambda: equal(eu, us))
        await us.group._committer.flush()
        with closing(database(us)) as connection:
            connection.execute("UPDATE states SET state = ?, hash = ? WHERE key = 'c1'", old)
            connection.execute("DELETE FROM states WHERE key = 'c2'")
        await until(lambda: status(us).found == 2)
        found = await whole_again(us, eu, us)
        assert {c.entity.key for c in found.corruptions} == {"c1", "c2"}


@pytest.mark.parametrize("column", ["body", "hash", "first", "last", "region", "incarnation"])
async def test_any_byte_of_a_stored_frame_is_found_and_fetched_again(
    tmp_path: Path, column: str
) -> None:
    async with regions(tmp_path, "eu", "us") as (eu, us):
        await filled(eu, us)
        with closing(database(us)) as connection:
            frames = connection.execute("SELECT * FROM frames ORDER BY place").fetchall()
        assert len(frames) > 8
        for place, at, by in ((1, 0.5, 64), (5, 0.01, 1), (len(frames), 0.99, 2)):
            before = status(us).found
            flip(us, "frames", column, f"place = {place}", at, by)
            await until(lambda before=before: status(us).found > before)
            found = await whole_again(us, eu, us)
            assert {c.kind for c in found.corruptions} == {digest_pb2.CORRUPTION_KIND_STORED_FRAME}
            assert all(c.frame.origin.region == "eu" for c in found.corruptions)
            with closing(database(us)) as connection:
                rows = connection.execute("SELECT * FROM frames ORDER BY place").fetchall()
            assert rows == frames


async def test_a_damaged_row_at_the_start_is_repaired_from_a_peer(tmp_path: Path) -> None:
    async with regions(tmp_path, "eu", "us") as (eu, us):
        await filled(eu, us)
        await us.stop()
        flip(us, "states", "state", "key = 'c3'", 0.7, 4)
        flip(us, "states", "key", "key = 'c4'", 0.9, 3)
        await us.start()
        assert status(us).found >= 2 and us.group.get(Channel, "c3") is None
        await until(lambda: us.group.get(Channel, "c3") is not None)
        await until(lambda: us.group.get(Channel, "c4") is not None)
        found = await whole_again(us, eu, us)
        assert {"c3", "c4"} <= {c.entity.key for c in found.corruptions}
        assert [c.title for c in us.group.list(Channel)] == ["second"] * len(KEYS)


async def test_damage_that_no_peer_repaired_yet_is_known_to_the_next_process(
    tmp_path: Path,
) -> None:
    async with regions(tmp_path, "eu", "us") as (eu, us):
        await filled(eu, us)
        await us.stop()
        await eu.stop()
        flip(us, "states", "state", "key = 'c3'", 0.7, 4)
        for _ in range(2):
            await us.start()
            assert status(us).found >= 1 and us.group.get(Channel, "c3") is None
            await until(lambda: status(us).disk_passes > 1)
            assert status(us).repaired == 0
            await us.stop()
        await eu.start()
        await us.start()
        await until(lambda: us.group.get(Channel, "c3") is not None)
        await whole_again(us, eu, us)


async def test_damage_in_memory_is_repaired_shown_and_stored(tmp_path: Path) -> None:
    async with regions(tmp_path, "eu", "us") as (eu, us):
        await filled(eu, us)
        events = us.group.watch([Channel])
        assert isinstance(await anext(events), Snapshot)
        entity = (CHANNEL, "c2")
        state = us.group.journal.committed[entity]
        us.group.journal.committed[entity] = state._replace(cells={})
        async with asyncio.timeout(15):
            while not isinstance(event := await anext(events), Batch):
                pass  # reach
        await events.aclose()
        (change,) = event.changes
        assert (change.old.message.title, change.new.message.title) == ("", "second")
        found = await whole_again(us, eu, us)
        assert [c.kind for c in found.corruptions] == [digest_pb2.CORRUPTION_KIND_MEMORY]
        await us.stop()
        await us.start()
        assert us.group.get(Channel, "c2").title == "second"


@pytest.mark.timeout(200)  # comparing has a share of the time, and writes leave it no more
async def test_pairs_are_proven_equal_while_writes_go_on(tmp_path: Path) -> None:
    async with regions(tmp_path, "eu", "us") as (eu, us):
        await filled(eu, us)

        def proven(region: Region) -> int:
            (pair,) = region.group.status().pairs
            return sum(p.sequence for p in pair.equal_up_to.positions)

        for region in (eu, us):
            await until(lambda region=region: proven(region) > 0)
        before = proven(eu), proven(us)
        number = 0
        async with asyncio.timeout(120):
            while proven(eu) <= before[0] + 20 or proven(us) <= before[1] + 20:
                number += 1
                await asyncio.gather(
                    eu.title(KEYS[number % 3], f"{number}"), us.title(KEYS[3], f"{number}")
                )
        assert status(eu).found == status(us).found == 0
