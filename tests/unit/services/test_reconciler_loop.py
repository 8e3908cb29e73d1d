"""What the reconciler sees, and that it writes what it decided."""

from __future__ import annotations

from pathlib import Path

from isthmus.channels.v1.channel_pb2 import (
    INTENT_ON_AIR,
    Assignment,
    Channel,
)
from isthmus.devices.v1.device_pb2 import DUTY_ACTIVE, Device, Session

from mesh.replication import (
    Batch,
    EntityChange,
    Group,
    LastChange,
    Origin,
    Reach,
    ReachChanged,
    Snapshot,
    Transaction,
    View,
)
from services.channels.loop import Loop
from services.channels.observer import BLIND_MS, SETTLE_MS, Observer
from services.channels.reconciler import Patience
from tests.unit.services.kit import ACTOR, group, own_writes

START = 1_700_000_000_000
HEARD = {"us": Reach(True, START)}


def view(device: Device, *, deleted: bool = False) -> View:
    return View(
        type="isthmus.devices.v1.Device",
        key=device.device_id,
        generation=1,
        deleted=deleted,
        last_change=LastChange("test", Origin("eu", 1), 0),
        value=b"" if deleted else device.SerializeToString(),
        message_class=Device,
    )


def device(device_id: str, *, ended: bool = False) -> Device:
    return Device(
        device_id=device_id,
        region="eu",
        capacity=1,
        duty=DUTY_ACTIVE,
        session=Session(epoch=1, connected_rank=int(ended), gateway_region="eu"),
    )


def observer(ring: tuple[str, ...] = ("eu", "us")) -> Observer:
    return Observer("eu", ring, START, Patience().region_ms)


def snapshot(*devices: Device, reach: dict[str, Reach] = HEARD) -> Snapshot:
    return Snapshot(tuple(map(view, devices)), reach, {})


def change(changed: View) -> Batch:
    return Batch((EntityChange(None, changed),))


def test_blind_without_devices_or_when_their_feed_is_silent() -> None:
    seen = observer(("eu",))
    assert seen.world([], {}, START) is None
    seen.devices_event(snapshot(), START)
    assert seen.world([], {}, START + BLIND_MS) is not None
    assert seen.world([], {}, START + BLIND_MS + 1) is None


def test_after_a_start_it_waits_until_it_caught_up() -> None:
    seen = observer()
    seen.devices_event(snapshot(), START)
    assert seen.world([], HEARD, START) is None
    assert seen.world([], HEARD, START + SETTLE_MS - 1) is None
    assert seen.world([], HEARD, START + SETTLE_MS) is not None


def test_after_a_start_a_region_that_was_never_heard_is_given_up() -> None:
    seen = observer()
    unheard = {"us": Reach(False, None)}
    late = START + Patience().region_ms
    seen.devices_event(ReachChanged(unheard), late - 1)
    assert seen.world([], unheard, late - 1) is None
    world = seen.world([], unheard, late)
    assert world is not None
    assert world.silent == {"us": START}


def test_ends_are_timed_from_when_they_are_seen() -> None:
    seen = observer(("eu",))
    seen.devices_event(snapshot(device("a"), device("b", ended=True)), START)
    seen.devices_event(change(view(device("a", ended=True))), START + 10)
    world = seen.world([], {}, START + 20)
    assert world is not None and world.ended == {"a": START + 10, "b": START}
    seen.devices_event(change(view(device("a"))), START + 30)
    seen.devices_event(change(view(device("b"), deleted=True)), START + 30)
    world = seen.world([], {}, START + 40)
    assert world is not None and world.ended == {}
    assert [each.device_id for each in world.devices] == ["a"]


async def _create(opened: Group, channel: Channel) -> None:
    def write(transaction: Transaction) -> Channel:
        transaction.create(channel)
        return channel

    await opened.write(write, own_writes())


async def test_decisions_are_written_once(tmp_path: Path) -> None:
    async with group("channels", tmp_path) as opened:
        seen, clock = observer(("eu",)), [START]
        loop = Loop(opened, seen, own_writes, lambda: clock[0], Patience())
        await _create(opened, Channel(channel_id="news", home_region="eu", intent=INTENT_ON_AIR))
        await loop.decide()
        assert not (opened.get(Channel, "news") or Channel()).assignment.epoch

        seen.devices_event(snapshot(device("a"), device("b")), START)
        await loop.decide()
        started = opened.get(Channel, "news")
        assert started is not None and started.assignment.device_id
        assert {started.assignment.device_id, started.assignment.standby_device_id} == {"a", "b"}
        before = opened.history(Channel, "news")
        await loop.decide()
        assert opened.history(Channel, "news") == before
        assert before[0].actor == ACTOR

        lost = started.assignment.device_id
        seen.devices_event(change(view(device(lost, ended=True))), START)
        clock[0] += 1000
        await loop.decide()
        moved = opened.get(Channel, "news")
        assert moved is not None
        assert moved.assignment.previous_device_id == lost
        assert moved.assignment.epoch == started.assignment.epoch + 1
        assert moved.takeovers == 1


async def test_a_decision_on_an_older_assignment_is_dropped(tmp_path: Path) -> None:
    async with group("channels", tmp_path) as opened:
        seen = observer(("eu",))
        seen.devices_event(snapshot(device("a"), device("b")), START)
        loop = Loop(opened, seen, own_writes, lambda: START, Patience())
        await _create(opened, Channel(channel_id="news", home_region="eu", intent=INTENT_ON_AIR))
        stale = seen.world(opened.list(Channel), {}, START)
        newer = Assignment(epoch=START + 9, region="us", device_id="b", standby_device_id="a")

        def write(transaction: Transaction) -> Channel:
            channel = Channel(channel_id="news", assignment=newer)
            transaction.set(channel, "assignment")
            return channel

        await opened.write(write, own_writes())
        # The round sees the world as it was before the other decision came.
        seen.world = lambda *_: stale  # type: ignore[assignment,method-assign] # a test's shortcut
        await loop.decide()
        assert (opened.get(Channel, "news") or Channel()).assignment == newer
