"""One region's control plane, in this process over real groups, with real devices around it."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import grpc
import pytest
from isthmus.channels.v1 import channels_pb2 as api
from isthmus.channels.v1.channel_pb2 import TEST_PATTERN_BARS, Channel, Source
from isthmus.devices.v1 import gateway_pb2
from isthmus.devices.v1.device_pb2 import (
    DUTY_MAINTENANCE,
    ENCODING_STATE_ON_AIR,
    Device,
    Encoding,
)
from isthmus.devices.v1.devices_pb2 import SetDutyRequest
from isthmus.devices.v1.gateway_pb2_grpc import add_DeviceGatewayServiceServicer_to_server

from mesh.contracts import load
from mesh.identity import spiffe
from mesh.identity.spiffe import DeviceId
from mesh.replication import Group, ReachChanged, WatchEvent, WriteContext
from mesh.runtime.context import Call, current
from mesh.runtime.principal import Principal
from services.channels.loop import Loop
from services.channels.observer import Observer
from services.channels.reconciler import Patience
from services.channels.service import ChannelService
from services.devices.gateway import Gateway
from services.devices.service import DeviceService
from services.following import follow
from tests.support.agents import AgentProcess, until
from tests.support.gateway import HOST, TestAuthority

pytestmark = pytest.mark.e2e


class Admitting(Gateway):
    """Names the caller by its certificate, as a sidecar and the runtime do in a mesh."""

    async def Connect(
        self,
        requests: AsyncIterator[gateway_pb2.ConnectRequest],
        context: grpc.aio.ServicerContext[gateway_pb2.ConnectRequest, gateway_pb2.ConnectResponse],
    ) -> AsyncIterator[gateway_pb2.ConnectResponse]:
        names = context.auth_context()["x509_subject_alternative_name"]
        uri = next(name.decode() for name in names if name.startswith(b"spiffe://"))
        device = spiffe.parse(uri)
        assert isinstance(device, DeviceId)
        _calls_as(Principal("device", device.device_id, uri, uri))
        async for response in super().Connect(requests, context):
            yield response


def _calls_as(principal: Principal) -> None:
    current.set(Call("/test/Test", principal))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _own() -> WriteContext:
    return WriteContext(actor="spiffe://isthmus.test/region/eu/workload/test")


class Region:
    """What runs, and what it says."""

    def __init__(self, channels: Group, devices: Group, address: str) -> None:
        self.channels = ChannelService(channels, ("eu",))
        self.devices = DeviceService(devices)
        self.address = address
        self._channels, self._devices = channels, devices

    def channel(self) -> Channel:
        return self._channels.get(Channel, "news") or Channel()

    def encoding(self, device_id: str) -> Encoding:
        device = self._devices.get(Device, device_id) or Device()
        found = [e for e in device.encodings.encodings if e.channel_id == "news"]
        return found[0] if found else Encoding()

    def connected(self, device_id: str) -> bool:
        device = self._devices.get(Device, device_id)
        return device is not None and not device.session.connected_rank

    def on_air(self) -> str:
        """The device that the assignment names, if it is on air under it."""
        assignment = self.channel().assignment
        encoding = self.encoding(assignment.device_id)
        fits = encoding.state == ENCODING_STATE_ON_AIR and encoding.epoch == assignment.epoch
        return assignment.device_id if fits else ""


@asynccontextmanager
async def _region(folder: Path, authority: TestAuthority) -> AsyncIterator[Region]:
    async with AsyncExitStack() as stack:
        contract = load()
        groups = {}
        for name in ("channels", "devices"):
            groups[name] = await Group.open(
                contract, name, region="eu", peers=[], folder=folder / name
            )
            stack.push_async_callback(groups[name].close)
        channels, devices = groups["channels"], groups["devices"]
        gateway = Admitting(devices, _own, _now_ms)
        patience = Patience()
        observer = Observer("eu", ("eu",), _now_ms(), patience.region_ms)
        loop = Loop(channels, observer, _own, _now_ms, patience)
        tasks = [
            asyncio.create_task(work)
            for work in (
                gateway.watch_channels(follow(channels, Channel)),
                gateway.watch_devices(),
                gateway.run(),
                loop.watch_devices(_beating(devices)),
                loop.watch_channels(),
                loop.run(),
            )
        ]
        stack.push_async_callback(_end, tasks)
        server = grpc.aio.server()
        add_DeviceGatewayServiceServicer_to_server(gateway, server)
        port = server.add_secure_port(f"{HOST}:0", authority.server_credentials("edge"))
        await server.start()
        stack.push_async_callback(server.stop, 0)
        _calls_as(Principal("operator", "first", "spiffe://isthmus.test/operator/first", ""))
        yield Region(channels, devices, f"{HOST}:{port}")


async def _beating(devices: Group) -> AsyncIterator[WatchEvent]:
    """A feed as other workloads get it: it says how regions stand, once a second."""
    queue: asyncio.Queue[WatchEvent] = asyncio.Queue()

    async def entities() -> None:
        async for event in follow(devices, Device):
            queue.put_nowait(event)

    async def beat() -> None:
        while True:
            await asyncio.sleep(1)
            queue.put_nowait(ReachChanged(devices.reach()))

    tasks = [asyncio.create_task(entities()), asyncio.create_task(beat())]
    try:
        while True:
            yield await queue.get()
    finally:
        await _end(tasks)


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_channel_from_start_to_stop(tmp_path: Path, record: Callable[..., None]) -> None:
    authority = TestAuthority()
    async with _region(tmp_path / "groups", authority) as region:
        agents = {
            name: AgentProcess(name, tmp_path, authority, f"eu={region.address}")
            for name in ("encoder-1", "encoder-2", "encoder-3")
        }
        try:
            for agent in agents.values():
                await agent.start()
            await until(lambda: all(map(region.connected, agents)))
            await region.channels.CreateChannel(
                api.CreateChannelRequest(
                    channel_id="news", source=Source(test_pattern=TEST_PATTERN_BARS), start=True
                ),
                None,  # type: ignore[arg-type] # not read
            )
            record("start to on air", await until(region.on_air))

            # The encoder's device dies: its standby takes over within five seconds.
            first = region.channel().assignment
            await agents[first.device_id].kill()
            took = await until(lambda: region.on_air() == first.standby_device_id)
            record("device killed to standby on air", took)
            gap = region.encoding(first.standby_device_id).gap_seconds
            record("gap of the takeover", gap)
            assert 0 < gap < 5

            # The device comes back and is told nothing.
            await agents[first.device_id].start()
            await until(lambda: region.connected(first.device_id))

            # A device that hangs is replaced as well; it is fenced when it goes on.
            second = region.channel().assignment
            assert second.device_id == first.standby_device_id
            # Silence 2.5 s, a session's grace 1 s, a lock that it may hold 2 s, ffmpeg's start and
            # first segment 1.5 s, pauses between looks 1.5 s: 8.5 s, doubled for busy machines.
            agents[second.device_id].signal(signal.SIGSTOP)
            took = await until(lambda: region.on_air() not in ("", second.device_id), seconds=20)
            record("device stopped to standby on air", took)
            agents[second.device_id].signal(signal.SIGCONT)
            await until(lambda: not agents[second.device_id].encoders())

            # Maintenance: the old one stops once the new one is on air.
            third = region.channel().assignment
            await region.devices.SetDuty(
                SetDutyRequest(device_id=third.device_id, duty=DUTY_MAINTENANCE),
                None,  # type: ignore[arg-type] # not read
            )
            took = await until(lambda: region.on_air() not in ("", third.device_id))
            record("maintenance to successor on air", took)
            await until(lambda: not agents[third.device_id].encoders())
            # Less than a segment: what the old one had begun and was not let to publish.
            assert region.encoding(region.on_air()).gap_seconds < 1

            await region.channels.StopChannel(
                api.StopChannelRequest(channel_id="news"),
                None,  # type: ignore[arg-type] # not read
            )
            stopped = await until(lambda: not any(agent.encoders() for agent in agents.values()))
            record("stop to last encoder gone", stopped)
            assert region.channel().takeovers == 3
        finally:
            await asyncio.gather(*(agent.stop() for agent in agents.values()))


@pytest.fixture
def record() -> Callable[..., None]:
    """Prints a measured time; none is asserted."""

    def write(what: str, seconds: float) -> None:
        print(f"{what}: {seconds:.2f} s")

    return write
