"""The devices' gateway over a real group: sessions, reports, commands."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import Mock

import pytest
from isthmus.channels.v1 import channel_pb2 as c
from isthmus.channels.v1.channel_pb2 import Assignment, Channel
from isthmus.devices.v1 import gateway_pb2 as api
from isthmus.devices.v1.device_pb2 import (
    DUTY_ACTIVE,
    ENCODING_STATE_ON_AIR,
    ENCODING_STATE_STARTING,
    Device,
    Encoding,
    Encodings,
    Session,
)

from mesh.replication import (
    Batch,
    EntityChange,
    Group,
    LastChange,
    Origin,
    Reach,
    Snapshot,
    Transaction,
    View,
)
from mesh.runtime import Aborted, InvalidArgument, PermissionDenied, Unavailable
from services.devices import domain
from services.devices import gateway as module
from services.devices.gateway import Gateway
from tests.unit.services.kit import calls_as, group, own_writes, until


class Clock:
    def __init__(self) -> None:
        self.ms = 1_000_000

    def __call__(self) -> int:
        return self.ms


@dataclass
class Connected:
    """A device's end of a stream."""

    gateway: Gateway
    device_id: str
    requests: asyncio.Queue[api.ConnectRequest | None] = field(default_factory=asyncio.Queue)
    heard: list[api.ConnectResponse] = field(default_factory=list)
    task: asyncio.Task[None] | None = None

    def start(
        self,
        hello: api.Hello | None = None,
        name: str | None = None,
        enrolled_ms: int | None = None,
    ) -> Connected:
        calls_as("device", name or self.device_id, enrolled_ms=enrolled_ms)
        first = hello or api.Hello(device_id=self.device_id, region="eu", capacity=2)
        self.requests.put_nowait(api.ConnectRequest(hello=first))
        self.task = asyncio.create_task(self._run())
        # How it ends is not every test's business.
        self.task.add_done_callback(lambda task: task.cancelled() or task.exception())
        return self

    async def _run(self) -> None:
        async for response in self.gateway.Connect(self._requests(), Mock()):
            self.heard.append(response)

    async def _requests(self) -> AsyncIterator[api.ConnectRequest]:
        while (request := await self.requests.get()) is not None:
            yield request

    def report(self, *encodings: Encoding, restarts: int = 0) -> None:
        report = api.Report(encodings=Encodings(encodings=encodings), encoder_restarts=restarts)
        self.requests.put_nowait(api.ConnectRequest(report=report))

    @property
    def commands(self) -> list[api.Run | api.Fence]:
        return [r.run if r.HasField("run") else r.fence for r in self.heard if _is_command(r)]

    async def end(self) -> None:
        self.requests.put_nowait(None)
        assert self.task is not None
        await self.task


def _is_command(response: api.ConnectResponse) -> bool:
    return response.WhichOneof("message") in ("run", "fence")


class Channels:
    """A channels feed that a test writes."""

    def __init__(self) -> None:
        self._events: asyncio.Queue[Snapshot | Batch] = asyncio.Queue()

    def __aiter__(self) -> Channels:
        return self

    async def __anext__(self) -> Snapshot | Batch:
        return await self._events.get()

    def snapshot(self, *channels: Channel) -> None:
        views = tuple(_view(channel) for channel in channels)
        self._events.put_nowait(Snapshot(views, {"us": Reach(True, 0)}, {}))

    def change(self, channel: Channel, *, deleted: bool = False) -> None:
        self._events.put_nowait(Batch((EntityChange(None, _view(channel, deleted)),)))


def _view(channel: Channel, deleted: bool = False) -> View:
    value = b"" if deleted else channel.SerializeToString()
    changed = LastChange("test", Origin("eu", 1), 0)
    return View(
        type="isthmus.channels.v1.Channel",
        key=channel.channel_id,
        generation=1,
        deleted=deleted,
        last_change=changed,
        value=value,
        message_class=Channel,
    )


def channel(device_id: str, epoch: int, **assignment: str | int) -> Channel:
    return Channel(
        channel_id="news",
        assignment=Assignment(
            epoch=epoch,
            region="eu",
            device_id=device_id,
            **assignment,  # type: ignore[arg-type] # a test's shorthand
        ),
    )


def run(epoch: int, previous: str = "") -> api.Run:
    return api.Run(
        channel_id="news",
        epoch=epoch,
        region="eu",
        source=c.Source(),
        profile=c.Profile(),
        previous_device_id=previous,
    )


@dataclass
class Bench:
    group: Group
    gateway: Gateway
    channels: Channels
    clock: Clock

    def connect(self, device_id: str) -> Connected:
        return Connected(self.gateway, device_id).start()

    def device(self, device_id: str) -> Device:
        return self.group.get(Device, device_id) or Device()


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with group("devices", tmp_path) as opened:
        clock, channels = Clock(), Channels()
        gateway = Gateway(opened, own_writes, clock)
        tasks = [
            asyncio.create_task(gateway.watch_channels(channels)),
            asyncio.create_task(gateway.watch_devices()),
            asyncio.create_task(gateway.run()),
        ]
        yield Bench(opened, gateway, channels, clock)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_session_from_welcome_to_end(bench: Bench) -> None:
    one = bench.connect("encoder-1")
    await until(lambda: one.heard)
    assert one.heard[0].welcome.gateway_region == "eu"
    device = bench.device("encoder-1")
    assert device.session.epoch == one.heard[0].welcome.epoch
    assert (device.duty, device.capacity, device.session.connected_rank) == (DUTY_ACTIVE, 2, 0)
    await until(lambda: any(r.HasField("ping") for r in one.heard))
    await one.end()
    await until(lambda: bench.device("encoder-1").session.connected_rank == 1)


async def test_the_certificate_names_the_device(bench: Bench) -> None:
    other = Connected(bench.gateway, "encoder-1").start(name="encoder-2")
    assert other.task is not None
    with pytest.raises(PermissionDenied, match="encoder-1"):
        await other.task


async def test_hello_comes_first_and_once(bench: Bench) -> None:
    calls_as("device", "encoder-1")
    late = Connected(bench.gateway, "encoder-1")
    late.report()
    with pytest.raises(InvalidArgument, match="Hello"):
        await late._run()
    one = bench.connect("encoder-1")
    one.requests.put_nowait(api.ConnectRequest(hello=api.Hello()))
    assert one.task is not None
    with pytest.raises(InvalidArgument, match="once"):
        await one.task


async def test_a_deleted_device_comes_back_by_enrolling_again_alone(bench: Bench) -> None:
    one = bench.connect("encoder-1")
    await until(lambda: one.heard)

    def delete(transaction: Transaction) -> Device:
        transaction.delete(Device, "encoder-1")
        return Device()

    await bench.group.write(delete, own_writes())
    assert one.task is not None
    with pytest.raises(PermissionDenied, match="was deleted"):
        await one.task
    view = bench.group.get_view(Device, "encoder-1")
    assert view is not None
    deleted_ms = view.last_change.time_ms
    for enrolled_ms in (None, deleted_ms - 3_600_000, deleted_ms):
        former = Connected(bench.gateway, "encoder-1").start(enrolled_ms=enrolled_ms)
        assert former.task is not None
        with pytest.raises(PermissionDenied, match="enrol it again"):
            await former.task
    assert bench.group.get(Device, "encoder-1") is None
    anew = Connected(bench.gateway, "encoder-1").start(enrolled_ms=deleted_ms + 1)
    await until(lambda: anew.heard)
    assert bench.device("encoder-1").capacity == 2


async def test_the_latest_enrolment_shuts_out_earlier_ones(bench: Bench) -> None:
    """So a stolen certificate ends by enrolling the device again, or by deleting it."""
    first = Connected(bench.gateway, "encoder-1").start(enrolled_ms=5_000)
    await until(lambda: first.heard)
    again = Connected(bench.gateway, "encoder-1").start(enrolled_ms=9_000)
    await until(lambda: again.heard)
    for enrolled_ms in (None, 5_000, 8_999):
        former = Connected(bench.gateway, "encoder-1").start(enrolled_ms=enrolled_ms)
        assert former.task is not None
        with pytest.raises(PermissionDenied, match="enrolled again since"):
            await former.task
    assert again.task is not None and not again.task.done()
    successor = Connected(bench.gateway, "encoder-1").start(enrolled_ms=9_000)
    await until(lambda: successor.heard)


async def test_a_newer_session_ends_the_older(bench: Bench) -> None:
    one = bench.connect("encoder-1")
    await until(lambda: one.heard)
    two = bench.connect("encoder-1")
    assert one.task is not None
    with pytest.raises(Aborted, match="newer session"):
        await one.task
    await until(lambda: two.heard)
    assert two.heard[0].welcome.epoch > one.heard[0].welcome.epoch
    assert bench.device("encoder-1").session == Session(
        epoch=two.heard[0].welcome.epoch,
        gateway_region="eu",
        changed=bench.device("encoder-1").session.changed,
    )


async def _write_session(bench: Bench, session: Session) -> None:
    device = Device(device_id="encoder-1", session=session)

    def change(transaction: Transaction) -> Device:
        transaction.set(device, "session")
        return device

    await bench.group.write(change, own_writes())


async def test_a_newer_session_elsewhere_ends_it_too(bench: Bench) -> None:
    one = bench.connect("encoder-1")
    await until(lambda: one.heard)
    epoch = one.heard[0].welcome.epoch
    await _write_session(bench, Session(epoch=epoch + 5, gateway_region="us"))
    assert one.task is not None
    with pytest.raises(Aborted, match="newer session"):
        await one.task


async def test_a_session_that_lives_outranks_an_end_elsewhere(bench: Bench) -> None:
    one = bench.connect("encoder-1")
    await until(lambda: one.heard)
    ended = Session(
        epoch=one.heard[0].welcome.epoch + 50_000, connected_rank=1, gateway_region="us"
    )
    await _write_session(bench, ended)
    await until(lambda: bench.device("encoder-1").session.epoch > ended.epoch)
    assert bench.device("encoder-1").session.connected_rank == 0


async def test_a_silent_device_is_given_up(bench: Bench) -> None:
    one = bench.connect("encoder-1")
    await until(lambda: one.heard)
    bench.clock.ms += module.SILENT_MS + 1
    assert one.task is not None
    with pytest.raises(Aborted, match="reported nothing"):
        await one.task
    await until(lambda: bench.device("encoder-1").session.connected_rank == 1)


async def test_stale_sessions_of_a_former_gateway_end(bench: Bench) -> None:
    one = bench.connect("encoder-1")
    await until(lambda: one.heard)
    await one.end()
    await until(lambda: bench.device("encoder-1").session.connected_rank == 1)
    await _write_session(bench, Session(epoch=one.heard[0].welcome.epoch + 9, gateway_region="eu"))
    await asyncio.sleep(0.6)
    bench.clock.ms += module.STALE_MS
    await until(lambda: bench.device("encoder-1").session.connected_rank == 1)


async def test_stopping_ends_all_sessions(tmp_path: Path) -> None:
    async with group("devices", tmp_path) as opened:
        gateway = Gateway(opened, own_writes, Clock())
        running = asyncio.create_task(gateway.run())
        one = Connected(gateway, "encoder-1").start()
        await until(lambda: one.heard)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert one.task is not None
        with pytest.raises(Unavailable, match="stopping"):
            await one.task
        device = opened.get(Device, "encoder-1")
        assert device is not None and device.session.connected_rank == 1


def encoding(epoch: int, state: int = ENCODING_STATE_ON_AIR, **values: str | int) -> Encoding:
    return Encoding(
        channel_id="news",
        epoch=epoch,
        region="eu",
        state=state,  # type: ignore[arg-type] # a test's shorthand
        **values,  # type: ignore[arg-type] # a test's shorthand
    )


async def test_reports_are_written_when_they_say_something(bench: Bench) -> None:
    one = bench.connect("encoder-1")
    await until(lambda: one.heard)
    one.report(encoding(1, ENCODING_STATE_STARTING), restarts=2)
    await until(lambda: bench.device("encoder-1").encoder_restarts == 2)
    one.report(encoding(1, frames=100))
    await until(lambda: bench.device("encoder-1").encodings.encodings[0].frames == 100)
    one.report(encoding(1, frames=110))
    one.report(encoding(1, frames=120), restarts=1)
    await until(lambda: bench.device("encoder-1").encoder_restarts == 3)
    one.report(encoding(1, frames=130))
    await asyncio.sleep(0.1)
    assert bench.device("encoder-1").encodings.encodings[0].frames == 120
    bench.clock.ms += 2_000
    one.report(encoding(1, frames=131))
    await until(lambda: one.requests.empty())
    bench.clock.ms += 2_000
    one.report(encoding(1, frames=132))
    await until(lambda: one.requests.empty())
    bench.clock.ms += 2_000
    one.report(encoding(1, frames=140))
    await until(lambda: bench.device("encoder-1").encodings.encodings[0].frames == 140)


async def test_a_device_that_reports_too_fast_is_written_down_five_times_a_second(
    bench: Bench,
) -> None:
    one = bench.connect("encoder-1")
    await until(lambda: one.heard)
    began = asyncio.get_running_loop().time()
    for number in range(1, 201):
        state = ENCODING_STATE_STARTING if number % 2 else ENCODING_STATE_ON_AIR
        one.report(encoding(1, state, frames=number), restarts=1)
        await asyncio.sleep(0.002)
    # Of what came too fast the last is kept, and no restart is lost.
    await until(lambda: bench.device("encoder-1").encoder_restarts == 200)
    assert bench.device("encoder-1").encodings.encodings[0].frames == 200
    seconds = asyncio.get_running_loop().time() - began
    history = bench.group.history(Device, "encoder-1")
    written = [record for record in history if "encoder_restarts" in record.fields]
    assert len(written) <= 2 + 5 * seconds


async def test_the_last_report_of_a_session_is_written_when_it_ends(bench: Bench) -> None:
    one = bench.connect("encoder-1")
    await until(lambda: one.heard)
    one.report(encoding(1, ENCODING_STATE_STARTING))
    one.report(encoding(1, frames=7), restarts=1)
    await one.end()
    await until(lambda: bench.device("encoder-1").session.connected_rank == 1)
    device = bench.device("encoder-1")
    assert device.encodings.encodings[0].frames == 7
    assert device.encoder_restarts == 1


async def test_the_highest_assignment_is_told_to_winner_and_loser(bench: Bench) -> None:
    one, two = bench.connect("encoder-1"), bench.connect("encoder-2")
    bench.channels.snapshot(channel("encoder-1", 1))
    await until(lambda: one.commands)
    assert one.commands == [run(1)] and not two.commands
    one.report(encoding(1))
    bench.channels.change(channel("encoder-2", 2, previous_device_id="encoder-1"))
    await until(lambda: two.commands)
    await until(lambda: len(one.commands) > 1)
    assert two.commands == [run(2, previous="encoder-1")]
    assert one.commands[1:] == [api.Fence(channel_id="news", epoch=2, region="eu")]


async def test_an_order_that_is_not_obeyed_is_repeated(bench: Bench) -> None:
    one = bench.connect("encoder-1")
    bench.channels.snapshot(channel("encoder-1", 1))
    await until(lambda: one.commands)
    one.report()
    await until(lambda: one.requests.empty())
    bench.clock.ms += 1_000
    await until(lambda: len(one.commands) == 2)
    assert one.commands[0] == one.commands[1]


async def test_a_device_that_comes_back_late_is_fenced(bench: Bench) -> None:
    bench.channels.snapshot(channel("encoder-2", 4))
    one = Connected(bench.gateway, "encoder-1").start(
        api.Hello(
            device_id="encoder-1",
            region="eu",
            capacity=1,
            encodings=Encodings(encodings=[encoding(3)]),
        )
    )
    await until(lambda: one.commands)
    assert one.commands == [api.Fence(channel_id="news", epoch=4, region="eu")]


async def test_maintenance_waits_for_the_successor_on_air(bench: Bench) -> None:
    one, two = bench.connect("encoder-1"), bench.connect("encoder-2")
    bench.channels.snapshot(channel("encoder-1", 1))
    await until(lambda: one.commands)
    one.report(encoding(1))
    bench.channels.change(
        channel(
            "encoder-2",
            2,
            previous_device_id="encoder-1",
            reason=c.ASSIGNMENT_REASON_MAINTENANCE,
        )
    )
    await until(lambda: two.commands)
    two.report(encoding(2, ENCODING_STATE_STARTING))
    await until(lambda: bench.device("encoder-2").encodings.encodings)
    # A new standby meanwhile ends nothing.
    bench.channels.change(
        channel(
            "encoder-2",
            3,
            previous_device_id="encoder-1",
            reason=c.ASSIGNMENT_REASON_STANDBY_CHANGED,
        )
    )
    await until(lambda: len(two.commands) == 2)
    assert len(one.commands) == 1
    two.report(encoding(3))
    await until(lambda: len(one.commands) == 2)
    assert isinstance(one.commands[1], api.Fence)


async def test_a_deleted_channel_is_fenced_and_an_unknown_one_after_a_while(bench: Bench) -> None:
    one = bench.connect("encoder-1")
    bench.channels.snapshot(channel("encoder-1", 1))
    await until(lambda: one.commands)
    one.report(encoding(1))
    bench.channels.change(channel("", 0), deleted=True)
    await until(lambda: len(one.commands) > 1)
    assert one.commands[1] == api.Fence(channel_id="news", epoch=2, region="eu")

    two = bench.connect("encoder-2")
    await until(lambda: two.heard)
    two.report(Encoding(channel_id="sport", epoch=5, region="us", state=ENCODING_STATE_ON_AIR))
    await until(lambda: bench.device("encoder-2").encodings.encodings)
    for _ in range(6):
        two.report(Encoding(channel_id="sport", epoch=5, region="us"))
        await until(lambda: two.requests.empty())
        await asyncio.sleep(0.01)
        bench.clock.ms += domain.UNKNOWN_MS // 5
    await until(lambda: two.commands)
    assert two.commands[0] == api.Fence(channel_id="sport", epoch=6, region="us")


def test_a_handover_ends_after_ten_seconds_or_another_move() -> None:
    begun = domain.handover_of(
        channel("b", 2, previous_device_id="a", reason=c.ASSIGNMENT_REASON_MAINTENANCE), 0
    )
    assert begun is not None
    assignment = Assignment(device_id="b", epoch=2)
    assert not domain.handover_over(begun, assignment, None, domain.HANDOVER_MS - 1)
    assert domain.handover_over(begun, assignment, None, domain.HANDOVER_MS)
    assert domain.handover_over(begun, Assignment(device_id="c", epoch=3), None, 0)
    assert domain.handover_of(channel("b", 2, previous_device_id="a"), 0) is None
