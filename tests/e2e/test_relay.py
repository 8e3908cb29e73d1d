"""Changes go around a link that is down, and their origin's certificate proves them."""

from __future__ import annotations

import asyncio
import uuid

import grpc
import pytest
from isthmus.channels.v1 import channel_pb2, channels_pb2, channels_pb2_grpc

from mesh.cli.story.stage import Stage
from mesh.runtime import Edges, NoEdge

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

SOURCE = channel_pb2.Source(test_pattern=channel_pb2.TEST_PATTERN_BARS)


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
        await eu.call(
            lambda channel: channels_pb2_grpc.ChannelServiceStub(channel).CreateChannel(created),
            repeatable=True,
        )
        async with asyncio.timeout(40):
            while True:
                try:
                    await us.call(
                        lambda channel: channels_pb2_grpc.ChannelServiceStub(channel).GetChannel(
                            wanted
                        ),
                        repeatable=True,
                    )
                    return
                except NoEdge:
                    pass  # it had just asked beyond the link that was cut
                except grpc.aio.AioRpcError as missing:
                    assert missing.code() is grpc.StatusCode.NOT_FOUND
                await asyncio.sleep(0.2)  # until the link counts as lost and another relays
    finally:
        await mesh_up.control.ask("wan-heal")
        for edges in (eu, us):
            await edges.close()
