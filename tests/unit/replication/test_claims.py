"""A repeat that overtakes its write on the way to another region has no second effect."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from isthmus.replication.v1 import link_pb2

from mesh.replication import Group, RequestIdReused, WriteContext
from mesh.replication.core.clocks import Origin, Vector, vector_from_proto
from mesh.replication.core.frames import Frame
from mesh.replication.core.grants import Claims
from mesh.replication.core.receipts import KEPT_MS
from mesh.replication.errors import OperationUnknown
from tests.unit.replication.test_group_links import Channel, Region, equal, until
from tests.unit.replication.test_operations import asking, count

OPERATION = ("operator/first", "/test.v1.Test/Count", "once")


def repeat(seconds: float = 10, request: bytes = b"count") -> WriteContext:
    loop = asyncio.get_running_loop()
    return replace(asking(request), repeated=True, deadline=loop.time() + seconds)


@asynccontextmanager
async def apart(root: Path, *names: str) -> AsyncIterator[list[Region]]:
    """Regions whose changes do not come through, though they can ask each other."""
    found = [Region(name, root, tuple(n for n in names if n != name)) for name in names]
    try:
        for region in found:
            region.cut_off = set(region.peers)
            await region.start()
        for region in found:
            reach(region, *region.peers)
        yield found
    finally:
        await asyncio.gather(*(region.stop() for region in found))


def reach(region: Region, *peers: str) -> None:
    """From now on these peers can be asked, and no other."""

    def dial(peer: str) -> grpc.aio.Channel:
        whom = f"{peer}-for-{region.name}" if peer in peers else "nobody"
        return grpc.aio.insecure_channel(f"unix:{region.root / whom}.sock")

    claiming = region.group._claiming
    claiming._channels.clear()
    claiming.connect(dial)


def heal(*regions: Region) -> None:
    for region in regions:
        region.cut_off.clear()
        for peer, follower in region.group._links._followers.items():
            # As after a restart of the link: it dials anew.
            task = asyncio.create_task(follower.run(region.dial), name=f"link from {peer}")
            region.group._links._tasks.append(task)


def sent(source: Region, target: Region) -> Frame:
    """The only frame of a region, as it came to another one."""
    journal = target.group.journal
    (stored,) = source.group.log.after(source.group.journal.origin, 0, 1 << 20)
    statement = source.group.journal.keys.statement(stored.signature)
    assert statement is not None and journal.keys.learn(statement, source.name) == ""
    now_ms = target.group.now_ms()
    return journal.read(stored.body, stored.hash, now_ms, signature=stored.signature)


def takeovers(group: Group) -> int:
    found = group.get(Channel, "c1")
    return 0 if found is None else found.takeovers


async def test_a_repeat_that_overtakes_its_write_waits_for_it(tmp_path: Path) -> None:
    async with apart(tmp_path, "eu", "us") as (eu, us):
        first = await count(eu.group, asking())
        again = asyncio.create_task(count(us.group, repeat()))
        with pytest.raises(OperationUnknown, match="was done in eu, and what it wrote is not here"):
            await count(us.group, repeat(0.3))
        with pytest.raises(RequestIdReused):
            await count(us.group, repeat(request=b"another"))
        heal(us)
        assert await again == first
        assert takeovers(us.group) == 1
        assert await count(us.group, asking()) == first


async def test_a_repeat_of_what_nobody_did_is_done(tmp_path: Path) -> None:
    async with apart(tmp_path, "ap", "eu", "us") as (ap, eu, us):
        answer = await count(us.group, repeat())
        assert answer.title == "counted in us"
        # Whoever granted it does not begin it: also not for a first attempt that was under way.
        for region in (ap, eu):
            with pytest.raises(OperationUnknown, match="was done in us"):
                await count(region.group, replace(asking(), deadline=repeat(2).deadline))
        heal(ap, eu, us)
        await until(lambda: equal(ap, eu, us))
        for region in (ap, eu, us):
            assert await count(region.group, asking()) == answer
            assert takeovers(region.group) == 1


async def test_what_cannot_be_known_is_said_in_time(tmp_path: Path) -> None:
    async with apart(tmp_path, "ap", "eu", "us") as (_, eu, us):
        await count(eu.group, asking())
        reach(us, "ap")
        with pytest.raises(OperationUnknown, match="cannot be asked now: eu") as unknown:
            await count(us.group, repeat(2))
        assert unknown.value.regions == ("eu",)
        assert takeovers(us.group) == 0
        # A first attempt asks nobody.
        other = replace(asking(), request_id="other")
        assert (await count(us.group, other)).title == "counted in us"


@pytest.mark.timeout(20)
async def test_a_claim_may_come_just_as_the_write_is_stored(tmp_path: Path) -> None:
    async with apart(tmp_path, "eu", "us") as (eu, _):
        operations, context = eu.group._operations, asking()
        stored: asyncio.Future[Vector] = asyncio.get_running_loop().create_future()
        operations.started(context, Channel(), stored)
        stored.set_result({})
        # Before whoever waits for it has been told: nothing of this was written, so none is kept.
        assert await operations.known(OPERATION) is None


async def test_what_came_and_waits_is_not_granted(tmp_path: Path) -> None:
    async with apart(tmp_path, "ap", "eu", "us") as (ap, eu, us):
        first = await count(eu.group, asking())
        # Its change waits in us for another one, when the region that did it loses its disk.
        journal, frame = us.group.journal, sent(eu, us)
        frame.dependencies = {Origin("ap", 1): 1}
        assert journal.take(frame)
        await eu.stop()
        shutil.rmtree(tmp_path / "eu")
        await eu.start()
        reach(eu)
        with pytest.raises(OperationUnknown, match="cannot be asked now: us"):
            await count(ap.group, repeat(2))
        with pytest.raises(OperationUnknown):
            await count(us.group, repeat(2))
        frame.dependencies = {}
        us.group.frames_came()
        heal(ap, eu, us)
        assert await count(ap.group, repeat()) == first
        assert await count(us.group, repeat()) == first
        assert takeovers(ap.group) == takeovers(us.group) == 1


async def test_a_result_is_told_once_what_it_wrote_is_seen(tmp_path: Path) -> None:
    async with apart(tmp_path, "eu", "us") as (eu, us):
        first = await count(eu.group, asking())
        journal, frame = us.group.journal, sent(eu, us)
        assert journal.take(frame)
        batch = journal.next_batch()
        assert batch is not None
        await us.group._committer.on_thread(lambda: us.group.log.commit(batch))
        # It is on disk, and not visible yet.
        actor, method, request_id = OPERATION
        request = link_pb2.ClaimRequest(
            group=us.group.name, actor=actor, method=method, request_id=request_id
        )
        assert (await us.group.claim("eu", request)).HasField("busy")
        again = asyncio.create_task(count(us.group, asking()))
        await asyncio.sleep(0)
        assert not again.done() and takeovers(us.group) == 0
        journal.stored(batch)
        assert await again == first and takeovers(us.group) == 1
        told = (await us.group.claim("eu", request)).done
        assert vector_from_proto(told.vector) == journal.vector


async def test_a_fence_outlives_the_process(tmp_path: Path) -> None:
    async with apart(tmp_path, "eu", "us") as (eu, us):
        await count(us.group, repeat())
        await eu.stop()
        await eu.start()
        reach(eu)
        with pytest.raises(OperationUnknown, match="cannot be asked now: us"):
            await count(eu.group, replace(asking(), deadline=repeat(0.3).deadline))
        assert takeovers(eu.group) == 0


async def test_of_repeats_at_once_one_has_an_effect(tmp_path: Path) -> None:
    async with apart(tmp_path, "ap", "eu", "us") as regions:
        attempts = [
            asyncio.create_task(count(region.group, repeat())) for region in regions for _ in "12"
        ]
        await until(lambda: any(takeovers(region.group) for region in regions))
        heal(*regions)
        answers = await asyncio.gather(*attempts)
        assert len({answer.title for answer in answers}) == 1
        await until(lambda: equal(*regions))
        assert {takeovers(region.group) for region in regions} == {1}


async def test_a_repeat_that_is_refused_may_be_tried_again(tmp_path: Path) -> None:
    async with apart(tmp_path, "eu", "us") as (_, us):

        def refuse(transaction) -> Channel:
            raise ValueError("not now")

        for _ in range(2):
            with pytest.raises(ValueError, match="not now"):
                await us.group.write(refuse, repeat())
        await count(us.group, repeat())
        assert takeovers(us.group) == 1


async def test_first_attempts_in_two_regions_are_found_when_they_meet(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with apart(tmp_path, "eu", "us") as (eu, us):
        await count(eu.group, asking())
        await count(us.group, asking())
        heal(eu, us)
        with caplog.at_level(logging.ERROR, logger="isthmus.replication"):
            await until(lambda: equal(eu, us))
        said = [r.getMessage() for r in caplog.records if "two regions did" in r.getMessage()]
        assert len(said) == 2 and all("'once'" in each for each in said)
        assert eu.group.operations_doubled == us.group.operations_doubled == 1


async def test_a_stranger_claims_nothing(tmp_path: Path) -> None:
    async with apart(tmp_path, "eu", "us") as (eu, us):
        us.group._claiming._group.name = "devices"
        with pytest.raises(OperationUnknown):
            await count(us.group, repeat(0.3))
        assert not eu.group._claiming.is_fenced(OPERATION)


def test_the_first_by_name_goes_before() -> None:
    eu, us = Claims("eu", {}), Claims("us", {})
    eu.begin(OPERATION)
    us.begin(OPERATION)
    assert not eu.asked(OPERATION, "us", 0)
    assert us.asked(OPERATION, "eu", 0)
    assert eu.end(OPERATION) and not us.end(OPERATION)
    assert us.is_fenced(OPERATION) and not eu.is_fenced(OPERATION)
    # Who had given way asks anew; a fence of before does not stand in its way.
    us.begin(OPERATION)
    assert us.end(OPERATION)


def test_fences_are_kept_for_a_day() -> None:
    claims = Claims("eu", {OPERATION: 1})
    other = (*OPERATION[:2], "other")
    assert claims.asked(other, "us", KEPT_MS + 1)
    assert claims.is_fenced(OPERATION)
    assert claims.asked(other, "us", KEPT_MS + 2)
    assert not claims.is_fenced(OPERATION) and claims.is_fenced(other)
