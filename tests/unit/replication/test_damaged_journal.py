"""A region starts with a journal that was damaged: what is lost of it comes back from its peers."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
from isthmus.channels.v1 import channel_pb2
from isthmus.replication.v1 import digest_pb2

from mesh.replication import committer, errors, set_aside
from mesh.replication.core.clocks import Origin
from mesh.replication.core.life import LifeStart
from tests.unit.replication.test_group_links import Region, equal, until

Channel = channel_pb2.Channel


@pytest.fixture(autouse=True)
def unflushed() -> Iterator[None]:
    """Stored states stay behind the journal."""
    with patch.object(committer, "FLUSH_SECONDS", 3600):
        yield


async def crash(region: Region) -> sqlite3.Connection:
    """Ends a region as `kill -9` does; gives its store."""
    folder, kept = region.root / region.name, region.root / f"{region.name}-kept"
    shutil.copytree(folder, kept)
    await region.stop()
    shutil.rmtree(folder)
    kept.rename(folder)
    return sqlite3.connect(folder / "channels.sqlite3", isolation_level=None)


def damage(store: sqlite3.Connection, origin: Origin, sequence: int) -> None:
    """Flips one bit of a frame."""
    (place, body) = store.execute(
        "SELECT place, body FROM frames WHERE region = ? AND incarnation = ? AND last = ?",
        (*origin, sequence),
    ).fetchone()
    altered = body[:-1] + bytes([body[-1] ^ 1])
    store.execute("UPDATE frames SET body = ? WHERE place = ?", (altered, place))
    store.close()


def corruptions(region: Region) -> list[digest_pb2.Corruption]:
    return list(region.group.status().integrity.corruptions)


async def test_a_frame_of_a_peer_comes_again_and_what_was_written_behind_it_is_kept(
    tmp_path: Path,
) -> None:
    eu, us = Region("eu", tmp_path, ("us",)), Region("us", tmp_path, ("eu",))
    await asyncio.gather(eu.start(), us.start())
    try:
        for number in range(3):
            await eu.title(f"c{number}", "by eu")
        await until(lambda: equal(eu, us))
        # Nobody else gets what is written now.
        await eu.stop()
        await us.title("c1", "by us alone")
        await us.title("new", "by us alone")
        life = us.group.journal.origin
        source = next(o for o in us.group.journal.vector if o.region == "eu")
        damage(await crash(us), source, 2)

        await us.start()
        journal = us.group.journal
        assert journal.vector == {source: 1}
        assert journal.life.start is LifeStart.DAMAGED_JOURNAL and journal.origin > life
        (found,) = corruptions(us)
        assert (found.frame.origin.region, found.frame.sequence) == ("eu", 2)
        await us.title("later", "in another life")
        await eu.start()
        await until(lambda: equal(eu, us))
        for region in (eu, us):
            titles = {c.channel_id: c.title for c in region.group.list(Channel)}
            assert titles == {
                "c0": "by eu",
                "c1": "by us alone",
                "c2": "by eu",
                "new": "by us alone",
                "later": "in another life",
            }
        await until(lambda: bool(corruptions(us)) and corruptions(us)[0].HasField("repaired"), 40)

        # All of it is in the journal now: it is the same after one more crash.
        vector = dict(us.group.journal.vector)
        (await crash(us)).close()
        await us.start()
        assert us.group.journal.vector == vector and not corruptions(us)
    finally:
        await asyncio.gather(eu.stop(), us.stop())


async def test_what_nobody_else_has_is_named_and_the_region_goes_on(tmp_path: Path) -> None:
    eu, us = Region("eu", tmp_path, ("us",)), Region("us", tmp_path, ("eu",))
    await us.start()
    try:
        await us.title("first", "a")
        await us.title("lost", "a")
        await us.title("behind", "a")
        life = us.group.journal.origin
        damage(await crash(us), life, 2)
        await us.start()
        await eu.start()
        await us.title("later", "a")
        await until(lambda: equal(eu, us))
        assert [c.channel_id for c in eu.group.list(Channel)] == ["first", "later"]
        (found,) = corruptions(us)
        assert (found.frame.origin.incarnation, found.frame.sequence) == (life.incarnation, 2)
        assert not found.HasField("repaired")
        # What is whole behind it lies in the journal still, to be looked at.
        store = sqlite3.connect(tmp_path / "us" / "channels.sqlite3")
        lasts = store.execute("SELECT last FROM frames WHERE incarnation = ?", (life.incarnation,))
        assert [last for (last,) in lasts] == [1, 2, 3]
        store.close()
    finally:
        await asyncio.gather(eu.stop(), us.stop())


async def test_what_depends_on_nothing_that_is_lost_is_there_at_once(tmp_path: Path) -> None:
    eu, us = Region("eu", tmp_path, ("us",)), Region("us", tmp_path, ("eu",))
    await asyncio.gather(eu.start(), us.start())
    try:
        us.cut_off.add("eu")
        await us.stop()
        await us.start()  # what it writes from now on has seen nothing of the other
        await us.title("own", "by us")
        us.cut_off.clear()
        await us.stop()
        await us.start()
        await eu.title("c1", "by eu")
        await until(lambda: equal(eu, us))
        await eu.stop()
        store = await crash(us)
        # As if the other's frame had been committed first.
        store.execute("UPDATE frames SET place = -place")
        source = next(o for o in us.group.journal.vector if o.region == "eu")
        store.execute("UPDATE positions SET flushed = 0, flushed_hash = zeroblob(32)")
        damage(store, source, 1)
        await us.start()
        await until(lambda: us.group.get(Channel, "own") is not None)
        await eu.start()
        await until(lambda: equal(eu, us))
        assert [c.title for c in us.group.list(Channel)] == ["by eu", "by us"]
    finally:
        await asyncio.gather(eu.stop(), us.stop())


async def test_what_a_peer_had_of_this_region_comes_back(tmp_path: Path) -> None:
    eu, us = Region("eu", tmp_path, ("us",)), Region("us", tmp_path, ("eu",))
    await asyncio.gather(eu.start(), us.start())
    try:
        for number in range(3):
            await us.title(f"c{number}", "by us")
        await until(lambda: equal(eu, us))
        life = us.group.journal.origin
        damage(await crash(us), life, 1)
        await us.start()
        await until(lambda: equal(eu, us))
        assert len(us.group.list(Channel)) == 3 and us.group.journal.origin > life
    finally:
        await asyncio.gather(eu.stop(), us.stop())


async def test_a_store_beyond_repair_is_set_aside_and_the_region_comes_back(
    tmp_path: Path,
) -> None:
    eu, us = Region("eu", tmp_path, ("us",)), Region("us", tmp_path, ("eu",))
    await asyncio.gather(eu.start(), us.start())
    try:
        await us.title("c1", "by us")
        await eu.title("c2", "by eu")
        await until(lambda: equal(eu, us))
        with pytest.raises(errors.StoreLocked, match="open in another process"):
            set_aside(tmp_path / "us", "channels")
        await us.stop()
        store = tmp_path / "us" / "channels.sqlite3"
        whole = store.read_bytes()
        store.write_bytes(b"\0" * 4096 + whole[4096:])
        with pytest.raises(errors.StoreCorrupt, match="members restore us --set-aside channels"):
            await us.start()
        aside = set_aside(tmp_path / "us", "channels")
        assert aside is not None and (aside / store.name).stat().st_size == len(whole)
        assert set_aside(tmp_path / "us", "channels") is None
        await us.start()
        await until(lambda: equal(eu, us))
        assert [c.title for c in us.group.list(Channel)] == ["by us", "by eu"]
    finally:
        await asyncio.gather(eu.stop(), us.stop())
