"""A mutation that is sent again, to another region, has one effect, or a typed error says why."""

from __future__ import annotations

import uuid

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from isthmus.channels.v1 import channel_pb2, channels_pb2, channels_pb2_grpc

from mesh.cli.story.stage import Stage
from mesh.runtime import Edges, NoEdge
from tests.e2e.test_acknowledged_writes import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

SOURCE = channel_pb2.Source(test_pattern=channel_pb2.TEST_PATTERN_BARS)


def create() -> channels_pb2.CreateChannelRequest:
    return channels_pb2.CreateChannelRequest(
        channel_id=f"once-{uuid.uuid4().hex[:12]}", source=SOURCE, request_id=str(uuid.uuid4())
    )


async def send(
    edges: Edges, request: channels_pb2.CreateChannelRequest, *metadata: tuple[str, str]
) -> channel_pb2.Channel:
    """Sends it through one edge, as a session of its own: nothing is waited for by a token."""
    reply = await edges.call(
        lambda channel: channels_pb2_grpc.ChannelServiceStub(channel).CreateChannel(
            request, timeout=5, metadata=metadata
        ),
        repeatable=True,
    )
    found: channel_pb2.Channel = reply.channel
    return found


def reason(error: grpc.aio.AioRpcError) -> error_details_pb2.ErrorInfo:
    status = rpc_status.from_call(error)
    info = error_details_pb2.ErrorInfo()
    assert status is not None and status.details[0].Unpack(info)
    return info


async def test_a_repeat_that_overtakes_its_write_is_no_second_one(mesh_up: Stage) -> None:
    again = ("isthmus-attempt", "2")
    eu, us = (
        Edges([str(mesh_up.topology.edge(region))], mesh_up.layout.operator)
        for region in ("eu", "us")
    )
    try:
        await mesh_up.control.ask("wan-delay", region="us", seconds=0.2)
        for _ in range(5):
            request = create()
            first = await send(eu, request)
            assert await send(us, request, again) == first
        await mesh_up.control.ask("wan-heal")

        await mesh_up.control.ask("wan-cut", region="us")
        request = create()
        first = await send(eu, request)
        with pytest.raises(grpc.aio.AioRpcError) as unknown:
            await send(us, request, again)
        # Not what a sidecar says when the time is over, and nothing that it would try again.
        assert unknown.value.code() is grpc.StatusCode.ABORTED
        info = reason(unknown.value)
        assert info.reason == "OPERATION_UNKNOWN" and "eu" in info.metadata["regions"]
        await mesh_up.control.ask("wan-heal")

        async def answered() -> bool:
            try:
                return await send(us, request, again) == first
            except grpc.aio.AioRpcError as error:
                assert reason(error).reason == "OPERATION_UNKNOWN"
                return False

        await until(answered, 60, "the other region can be asked")
        await until(mesh_up.converged, 60, "all regions hold the same")
        assert await send(us, request) == first
    finally:
        await mesh_up.control.ask("wan-heal")
        for edges in (eu, us):
            await edges.close()


async def test_what_a_sidecar_sends_again_has_one_effect(mesh_up: Stage) -> None:
    """The service is killed under its callers: their sidecar fails over to another region."""
    us = Edges([str(mesh_up.topology.edge("us"))], mesh_up.layout.operator)
    try:
        for _ in range(3):
            request = create()
            await mesh_up.control.ask("workload-kill", region="us", workload="channels")
            said: set[str] = set()

            async def done(
                request: channels_pb2.CreateChannelRequest = request, said: set[str] = said
            ) -> bool:
                try:
                    await send(us, request)
                except NoEdge:
                    return False
                except grpc.aio.AioRpcError as error:
                    said.add(reason(error).reason)
                    return False
                return True

            await until(done, 60, "the write is done somewhere")
            # Had it been done twice, the second time would have found the channel.
            assert said <= {"OPERATION_UNKNOWN", "NOT_YET_HERE"}
            await until(mesh_up.converged, 60, "all regions hold the same")
    finally:
        await us.close()
