"""What a method may promise: durability in several regions, and answers from nothing older."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from mesh.contracts.model import Durability
from mesh.replication import Origin, WriteContext
from mesh.replication.errors import DurabilityPending, NotYetHere
from tests.unit.replication.test_group_links import Channel, Region, equal, regions, until


def asking(durability: Durability, seconds: float, request_id: str = "") -> WriteContext:
    return WriteContext(
        "operator/first",
        request_id=request_id,
        durability=durability,
        deadline=time.monotonic() + seconds,
    )


async def create(region: Region, key: str, context: WriteContext) -> Channel:
    def change(tx):
        message = Channel(channel_id=key)
        tx.create(message)
        return message

    return await region.group.write(change, context)


def holds(region: Region, origin: Origin, sequence: int) -> bool:
    """What a region's disk says, read by another connection."""
    return bool(region.group.log.after(origin, sequence - 1, 1))


@pytest.mark.parametrize("durability", [Durability.ONE_PEER, Durability.MAJORITY])
async def test_an_answer_waits_for_the_disks_of_as_many_regions(
    tmp_path: Path, durability: Durability
) -> None:
    async with regions(tmp_path, "ap", "eu", "us") as (ap, eu, us):
        for number in range(20):
            await create(eu, f"c{number}", asking(durability, 30))
            origin = eu.group.journal.origin
            sequence = eu.group.journal.vector[origin]
            assert holds(ap, origin, sequence) or holds(us, origin, sequence)


async def test_what_cannot_be_reached_is_pending_and_said(tmp_path: Path) -> None:
    async with regions(tmp_path, "ap", "eu", "us") as (ap, eu, us):
        await until(lambda: all(link.connected for link in eu.group.status().links))
        await asyncio.gather(ap.stop(), us.stop())
        with pytest.raises(DurabilityPending, match="durable in eu, and 2 regions") as pending:
            await create(eu, "c1", asking(Durability.MAJORITY, 0.3, "once"))
        assert (pending.value.holders, pending.value.needed) == (("eu",), 2)
        # It took effect, and goes on to the others; its repeat waits for them again.
        assert eu.group.get(Channel, "c1") is not None
        # So does who finds it done and has nothing to write.
        with pytest.raises(DurabilityPending):
            await eu.group.write(lambda _: Channel(), asking(Durability.MAJORITY, 0.3))
        repeat = asyncio.create_task(create(eu, "c1", asking(Durability.MAJORITY, 30, "once")))
        await us.start()
        assert (await repeat).channel_id == "c1"
        assert us.group.get(Channel, "c1") is not None
        await ap.start()


async def test_a_relays_word_is_not_the_targets(tmp_path: Path) -> None:
    names = ("ap", "eu", "us")
    ap, eu, us = (Region(name, tmp_path, tuple(n for n in names if n != name)) for name in names)
    # us hears of eu by ap alone, and eu never hears us: only ap can vouch for eu's writes.
    us.cut_off, eu.cut_off = {"eu"}, {"us"}
    await asyncio.gather(ap.start(), eu.start(), us.start())
    try:
        await create(eu, "c1", asking(Durability.MAJORITY, 30))
        await until(lambda: us.group.get(Channel, "c1") is not None)
        position = dict(eu.group.journal.vector)
        assert eu.group.members.durable.holders(position) == ["ap", "eu"]
    finally:
        await asyncio.gather(*(region.stop() for region in (ap, eu, us)))


async def test_a_reader_waits_for_what_its_session_saw(tmp_path: Path) -> None:
    async with regions(tmp_path, "eu", "us") as (eu, us):
        await until(lambda: all(link.connected for link in us.group.status().links))
        await create(eu, "c1", WriteContext("operator/first"))
        await us.group.wait_for(eu.group.seen(), time.monotonic() + 30)
        assert us.group.get(Channel, "c1") is not None
        # A change that it never gets is said to be missing, in the deadline.
        origin = eu.group.journal.origin
        beyond = {origin: eu.group.journal.vector[origin] + 3}
        with pytest.raises(NotYetHere, match=r"it lacks: 3 of eu#") as missing:
            await us.group.wait_for(beyond, time.monotonic() + 0.2)
        assert missing.value.behind == {origin: 3}
        await until(lambda: equal(eu, us))
