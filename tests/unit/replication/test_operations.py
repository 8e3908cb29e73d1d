"""A request that is repeated in another region has one effect."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from mesh.contracts.model import Durability
from mesh.replication import Group, Origin, RequestIdReused, Transaction, WriteContext
from mesh.replication.core import frames
from mesh.replication.core.errors import ChainBroken
from mesh.replication.core.frames import chain
from mesh.replication.errors import OperationUnknown
from tests.unit.replication.test_group_links import Channel, equal, regions, until


def asking(request: bytes = b"count", method: str = "/test.v1.Test/Count") -> WriteContext:
    return WriteContext(
        "operator/first",
        request_id="once",
        method=method,
        request_digest=hashlib.sha256(request).digest(),
    )


async def count(group: Group, context: WriteContext) -> Channel:
    """Creates the channel or counts a takeover; says what it did in the title."""

    def change(transaction: Transaction) -> Channel:
        if transaction.get(Channel, "c1") is None:
            transaction.create(Channel(channel_id="c1"))
        transaction.increment(Channel, "c1", "takeovers")
        return Channel(title=f"counted in {group.region}")

    return await group.write(change, context)


async def test_a_repeat_in_another_region_returns_the_first_result(tmp_path: Path) -> None:
    async with regions(tmp_path, "ap", "eu", "us") as (ap, eu, us):
        first = await count(eu.group, asking())
        await until(lambda: equal(ap, eu, us))
        for region in (ap, us, eu):
            assert await count(region.group, asking()) == first
            with pytest.raises(RequestIdReused):
                await count(region.group, asking(b"another"))
        # Not the principal's, not the method's: another operation.
        assert (await count(us.group, asking(method="/test.v1.Test/Other"))) != first
        await until(lambda: equal(ap, eu, us))
        assert ap.group.get(Channel, "c1").takeovers == 2


async def test_a_repeat_waits_for_the_durability_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with regions(tmp_path, "eu", "us") as (eu, us):
        await count(eu.group, asking())
        await until(lambda: equal(eu, us))
        asked: list[dict[Origin, int]] = []

        def holders(positions: dict[Origin, int]) -> list[str]:
            asked.append(positions)
            return ["eu", "us"]

        monkeypatch.setattr(us.group.members.durable, "holders", holders)
        await count(us.group, replace(asking(), durability=Durability.MAJORITY))
        # It went to eu's journal, not to us's.
        assert asked[0][eu.group.journal.origin] == eu.group.journal.vector[eu.group.journal.origin]


async def test_a_receipt_comes_with_the_change_by_whichever_way(tmp_path: Path) -> None:
    async with regions(tmp_path, "ap", "eu", "us") as (ap, eu, us):
        first = await count(eu.group, asking())
        await until(lambda: equal(ap, eu, us))
        await eu.stop()
        await us.stop()
        await us.start()  # from its disk
        assert await count(us.group, asking()) == first
        await eu.start()


async def test_a_result_that_cannot_be_read_is_no_reason_to_do_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with regions(tmp_path, "eu", "us") as (eu, us):
        await count(eu.group, asking())
        await until(lambda: equal(eu, us))
        receipt = us.group.log.receipt("operator/first", asking().method, "once")
        newer = receipt._replace(type="isthmus.future.v1.Answer")
        monkeypatch.setattr(us.group.log, "receipt", lambda *key: newer)
        with pytest.raises(OperationUnknown, match=r"isthmus\.future\.v1\.Answer"):
            await count(us.group, asking())
        assert us.group.get(Channel, "c1").takeovers == 1


async def test_a_receipt_of_no_change_is_damage(tmp_path: Path) -> None:
    async with regions(tmp_path, "eu") as (eu,):
        await count(eu.group, asking())
        (stored,) = eu.group.log.after(eu.group.journal.origin, 0, 1 << 20)
        (receipt,) = frames.parse(stored.body, stored.hash).receipts
        assert (receipt.actor, receipt.request_id) == ("operator/first", "once")
        message = frames.frame_pb2.FrameBody.FromString(stored.body)
        message.receipts[0].change = 7
        body = message.SerializeToString()
        with pytest.raises(ChainBroken, match="columns do not match"):
            frames.parse(body, chain(frames.GENESIS, body))
