"""Groups over real gRPC whose journals are cut: who comes late starts from a snapshot."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
from isthmus.channels.v1 import channel_pb2

from mesh.replication import Group, Transaction, committer, tail
from mesh.replication.core import generations, snapshots
from mesh.replication.core.errors import LinkFault
from tests.unit.replication.test_group_links import FIRST_OPERATOR, Region, regions, until

Channel = channel_pb2.Channel


@pytest.fixture(autouse=True)
def eager() -> Iterator[None]:
    """Journals are flushed and cut at once; pieces are small."""
    with (
        patch.object(committer, "FLUSH_SECONDS", 0.05),
        patch.dict(Group.open.__func__.__kwdefaults__, keep_bytes=0),
        patch.object(tail, "KEPT_BYTES", 0),
        patch.object(snapshots, "PIECE_BYTES", 400),
    ):
        yield


def equal(*found: Region) -> bool:
    groups = [region.group for region in found]
    return all(
        group.journal.vector == groups[0].journal.vector
        and group.journal.digest() == groups[0].journal.digest()
        for group in groups
    )


async def test_a_lost_disk_comes_back_from_a_snapshot_while_writes_go_on(tmp_path: Path) -> None:
    async with regions(tmp_path, "eu", "us") as (eu, us):
        for number in range(40):
            await eu.title(f"c{number}", "a")
        await us.title("by us", "kept")
        await until(lambda: equal(eu, us) and not eu.group.status().journal_bytes)
        assert eu.group.status().horizon == eu.group.status().vector

        await us.stop()
        shutil.rmtree(tmp_path / "us")
        await us.start()
        await us.title("by us again", "new")
        for number in range(10):
            await eu.title(f"c{number}", "b")
        await until(lambda: equal(eu, us))
        assert us.group.get(Channel, "by us").title == "kept"
        assert eu.group.get(Channel, "by us again").title == "new"
        assert not us.group.status().HasField("snapshot")

        await us.stop()
        await us.start()
        await until(lambda: equal(eu, us))


async def test_a_snapshot_goes_on_after_the_taker_starts_again(tmp_path: Path) -> None:
    async with regions(tmp_path, "eu", "us") as (eu, us):
        for number in range(200):
            await eu.title(f"c{number}", "a" * 300)
        await until(lambda: equal(eu, us) and not eu.group.status().journal_bytes)
        await us.stop()
        shutil.rmtree(tmp_path / "us")
        real = snapshots.Capture.piece
        made: list[int] = []
        broken = True

        def piece(capture: snapshots.Capture, number: int, receipts: object) -> object:
            if broken and number > 20:
                raise LinkFault("the stream breaks")
            made.append(number)
            return real(capture, number, receipts)  # type: ignore[arg-type] # passed through

        with patch.object(snapshots.Capture, "piece", piece):
            await us.start()
            await until(lambda: us.group.journal.intake._stored > 20)
            await us.stop()
            broken = False
            await us.start()
            snapshot = us.group.status().snapshot
            assert snapshot.peer == "eu" and snapshot.entities == 200
            assert snapshot.entities_taken and snapshot.bytes_taken > 20 * 400
            await until(lambda: equal(eu, us))
        assert made.count(0) == 1


async def test_the_journal_waits_for_whoever_is_away(tmp_path: Path) -> None:
    async with regions(tmp_path, "eu", "us") as (eu, us):
        await eu.title("c1", "a")
        await until(lambda: equal(eu, us) and not eu.group.status().journal_bytes)
        await us.stop()
        await eu.title("c1", "b")
        await eu.group._committer.flush()
        await asyncio.sleep(0.3)  # long enough to cut it, were it not for the other
        assert eu.group.status().journal_bytes
        await us.start()
        await until(lambda: equal(eu, us) and not eu.group.status().journal_bytes)


async def test_tombstones_go_once_all_have_seen_the_delete(tmp_path: Path) -> None:
    entity = (Channel.DESCRIPTOR.full_name, "c1")

    def gone(region: Region) -> bool:
        return entity not in region.group.journal.committed

    with patch.object(generations, "DAY_MS", 100):
        async with regions(tmp_path, "eu", "us") as (eu, us):
            await eu.title("c1", "a")
            await eu.title("c2", "a")
            first = eu.group.get_view(Channel, "c1").generation
            await us.stop()
            await eu.group.write(deleting("c1"), FIRST_OPERATOR)
            await asyncio.sleep(0.5)  # long enough to drop it, were it not for the other
            assert not gone(eu)
            await us.start()
            await until(lambda: gone(eu) and gone(us))
            assert equal(eu, us)
            await us.stop()
            await us.start()
            assert gone(us) and us.group.get(Channel, "c2") is not None
            await us.title("c1", "again")
            await until(lambda: equal(eu, us) and eu.group.get(Channel, "c1") is not None)
            assert eu.group.get_view(Channel, "c1").generation > first


def deleting(key: str) -> Callable[[Transaction], Channel]:
    def change(tx: Transaction) -> Channel:
        tx.delete(Channel, key)
        return Channel(channel_id=key)

    return change
