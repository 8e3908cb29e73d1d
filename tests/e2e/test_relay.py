"""Changes go around a link that is down, and their origin's certificate proves them."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable

import grpc
import pytest
from isthmus.channels.v1 import channel_pb2, channels_pb2, channels_pb2_grpc

from mesh.cli.story.stage import Stage
from mesh.runtime import Edges, NoEdge

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

SOURCE = channel_pb2.Source(test_pattern=channel_pb2.TEST_PATTERN_BARS)

Stub = channels_pb2_grpc.ChannelServiceStub


async def answered(edges: Edges, call: Callable[[Stub], Awaitable[object]]) -> None:
    """Calls until there is an answer: an edge may just have asked beyond the link that was cut."""
    async with asyncio.timeout(60):
        while True:
            try:
                await edges.call(
                    lambda channel: call(channels_pb2_grpc.ChannelServiceStub(channel)),
                    repeatable=True,
                )
                return
            except NoEdge:
                pass
            except grpc.aio.AioRpcError as missing:
                assert missing.code() is grpc.StatusCode.NOT_FOUND
            await asyncio.sleep(0.2)  # until the link counts as lost and another relays


async def test_a_third_region_relays_what_the_origins_certificate_proves(mesh_up: Stage) -> None:
    eu, us = (
        Edges([str(mesh_up.topology.edge(region))], mesh_up.layout.operator)
        for region in ("eu", "us")
    )
    created = channels_pb2.CreateChannelRequest(
        channel_id=f"relayed-{uuid.uuid4().hex[:12]}", source=SOURCE, request_id=str(uuid.uuid4())
    )
    wanted = channels_pb2.GetChannelRequest(channel_id=created.channel_id)
    try:
        await mesh_up.control.ask("wan-cut", source="eu", target="us")
        await answered(eu, lambda stub: stub.CreateChannel(created))
        await answered(us, lambda stub: stub.GetChannel(wanted))
    finally:
        await mesh_up.control.ask("wan-heal")
        for edges in (eu, us):
            await edges.close()
