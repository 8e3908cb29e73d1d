"""`kill -9` of a writing service, again and again: every acknowledged write is found everywhere."""

from __future__ import annotations

import asyncio
import uuid

import grpc
import pytest
from isthmus.channels.v1 import channel_pb2, channels_pb2, channels_pb2_grpc

from mesh.cli.story.stage import Stage, until
from mesh.runtime import NoEdge

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

KILLS = 4
WRITERS = 4
SOURCE = channel_pb2.Source(test_pattern=channel_pb2.TEST_PATTERN_BARS)


async def write(
    stage: Stage, region: str, prefix: str, written: set[str], stop: asyncio.Event
) -> None:
    """Creates channels until told to stop; notes those that were acknowledged."""
    while not stop.is_set():
        channel_id = f"{prefix}-{uuid.uuid4().hex[:12]}"
        request = channels_pb2.CreateChannelRequest(
            channel_id=channel_id, source=SOURCE, request_id=str(uuid.uuid4())
        )
        try:
            await stage.edges(region).call(
                lambda channel, request=request: channels_pb2_grpc.ChannelServiceStub(
                    channel
                ).CreateChannel(request, timeout=5),
                repeatable=True,
            )
        except (grpc.aio.AioRpcError, NoEdge):
            continue  # not acknowledged: it may be there or not
        written.add(channel_id)


async def ids(stage: Stage, region: str, prefix: str) -> set[str]:
    """The channels that a region itself has, over all pages."""
    found: set[str] = set()
    token = ""
    while True:
        request = channels_pb2.ListChannelsRequest(page_size=1000, page_token=token)
        page = await stage.edges(region).call(
            lambda channel, request=request: channels_pb2_grpc.ChannelServiceStub(
                channel
            ).ListChannels(request, timeout=5),
            repeatable=True,
        )
        found |= {c.channel_id for c in page.channels if c.channel_id.startswith(prefix)}
        token = page.next_page_token
        if not token:
            return found


async def test_no_acknowledged_write_is_lost(mesh_up: Stage) -> None:
    stop, written = asyncio.Event(), set[str]()
    prefix = f"kill-{uuid.uuid4().hex[:6]}"
    writers = [
        asyncio.create_task(write(mesh_up, "eu", prefix, written, stop)) for _ in range(WRITERS)
    ]
    try:
        for _ in range(KILLS):
            before = len(written)

            async def grew(than: int = before) -> bool:
                return len(written) > than + 20

            # Each kill hits a service that is writing.
            await until(grew, 60, "writes are acknowledged again")
            await mesh_up.control.ask("workload-kill", region="eu", workload="channels")
    finally:
        stop.set()
        await asyncio.gather(*writers)
    await until(mesh_up.converged, 60, "all regions hold the same")
    for region in mesh_up.regions:
        lost = written - await ids(mesh_up, region, prefix)
        assert not lost, f"{len(lost)} of {len(written)} acknowledged writes are not in {region}"
    assert len(written) > 20 * KILLS


async def test_a_repeat_after_a_crash_returns_the_first_result(mesh_up: Stage) -> None:
    """AIP-155, across kill -9: the receipt is in the write's own commit."""
    request = channels_pb2.CreateChannelRequest(
        channel_id=f"once-{uuid.uuid4().hex[:12]}", source=SOURCE, request_id=str(uuid.uuid4())
    )

    async def create() -> channel_pb2.Channel:
        reply = await mesh_up.edges("us").call(
            lambda channel: channels_pb2_grpc.ChannelServiceStub(channel).CreateChannel(
                request, timeout=5
            ),
            repeatable=True,
        )
        return reply.channel

    async def repeated() -> bool:
        """Until the region is back its edge asks another, which has the receipt as well."""
        try:
            again = await create()
        except NoEdge:
            return False
        assert again == first
        return True

    first = await create()
    await until(mesh_up.converged, 60, "all regions have the write")
    await mesh_up.control.ask("workload-kill", region="us", workload="channels")
    await until(repeated, 60, "the edge finds an instance")
    await until(mesh_up.converged, 60, "the region is back")
    assert await create() == first
    request.title = "another"
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await create()
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
