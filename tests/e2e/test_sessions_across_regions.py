"""A session goes on in another region: it reads what it wrote, or is told in time."""

from __future__ import annotations

import uuid

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from isthmus.channels.v1 import channel_pb2, channels_pb2, channels_pb2_grpc

from mesh.cli.story.stage import Stage
from mesh.runtime import Edges, SessionTokens

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

SOURCE = channel_pb2.Source(test_pattern=channel_pb2.TEST_PATTERN_BARS)
DELAY = 0.4


async def create(edges: Edges, channel_id: str) -> None:
    request = channels_pb2.CreateChannelRequest(
        channel_id=channel_id, source=SOURCE, request_id=str(uuid.uuid4())
    )
    await edges.call(
        lambda channel: channels_pb2_grpc.ChannelServiceStub(channel).CreateChannel(request),
        repeatable=True,
    )


async def read(edges: Edges, channel_id: str) -> str:
    request = channels_pb2.GetChannelRequest(channel_id=channel_id)
    reply = await edges.call(
        lambda channel: channels_pb2_grpc.ChannelServiceStub(channel).GetChannel(request),
        repeatable=True,
    )
    found: str = reply.channel.channel_id
    return found


async def test_a_session_reads_its_own_writes_in_another_region(mesh_up: Stage) -> None:
    session = SessionTokens()
    eu, us, stranger = (
        Edges([str(mesh_up.topology.edge(region))], mesh_up.layout.operator, session=jar)
        for region, jar in (("eu", session), ("us", session), ("us", None))
    )
    try:
        await mesh_up.control.ask("wan-delay", region="us", seconds=DELAY)
        early = 0
        for _ in range(50):
            channel_id = f"session-{uuid.uuid4().hex[:12]}"
            await create(eu, channel_id)
            try:
                await read(stranger, channel_id)
            except grpc.aio.AioRpcError as missing:
                assert missing.code() is grpc.StatusCode.NOT_FOUND
                early += 1
            assert await read(us, channel_id) == channel_id
            if early == 3:
                break
        # Who brings no token was answered from less.
        assert early == 3
    finally:
        await mesh_up.control.ask("wan-heal")
        for edges in (eu, us, stranger):
            await edges.close()


async def test_what_cannot_come_in_time_is_said_in_time(mesh_up: Stage) -> None:
    session = SessionTokens()
    eu, us = (
        Edges([str(mesh_up.topology.edge(region))], mesh_up.layout.operator, session=session)
        for region in ("eu", "us")
    )
    try:
        await mesh_up.control.ask("wan-cut", region="us")
        channel_id = f"session-{uuid.uuid4().hex[:12]}"
        await create(eu, channel_id)
        with pytest.raises(grpc.aio.AioRpcError) as late:
            await read(us, channel_id)
        # Not DEADLINE_EXCEEDED, nor what a sidecar says: it came before the time was over.
        assert late.value.code() is grpc.StatusCode.ABORTED
        status = rpc_status.from_call(late.value)
        assert status is not None
        info = error_details_pb2.ErrorInfo()
        assert status.details[0].Unpack(info)
        assert (info.reason, info.metadata["group"]) == ("NOT_YET_HERE", "channels")
        # The instance is not taken for broken: it answers who asks for what it has.
        session.token = b""
        with pytest.raises(grpc.aio.AioRpcError) as missing:
            await read(us, channel_id)
        assert missing.value.code() is grpc.StatusCode.NOT_FOUND
    finally:
        await mesh_up.control.ask("wan-heal")
        for edges in (eu, us):
            await edges.close()
