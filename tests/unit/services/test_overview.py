"""The picture: what it shows, what changes, what happened."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from unittest.mock import Mock

import pytest
from isthmus.channels.v1.channel_pb2 import (
    INTENT_ON_AIR,
    INTENT_STOPPED,
    Assignment,
    Channel,
)
from isthmus.devices.v1.device_pb2 import (
    ENCODING_STATE_ON_AIR,
    ENCODING_STATE_STARTING,
    Device,
    Encoding,
    Encodings,
    Session,
)
from isthmus.overview.v1 import overview_pb2 as api

from mesh.replication import (
    Batch,
    EntityChange,
    LastChange,
    Origin,
    Reach,
    ReachChanged,
    Snapshot,
    View,
    WatchEvent,
)
from mesh.runtime import ResourceExhausted, Unavailable
from services.overview.domain import Board, Change, Heard
from services.overview.service import QUEUE, OverviewService
from tests.unit.services.kit import until

NOW = 1_700_000_000_000
ALL_HEARD = {"us": Heard(True, NOW), "ap": Heard(True, NOW)}


def channel(device_id: str = "", epoch: int = 1, region: str = "eu", **values: str) -> Channel:
    return Channel(
        channel_id="news",
        intent=INTENT_ON_AIR,
        home_region="eu",
        assignment=Assignment(epoch=epoch, region=region, device_id=device_id, **values)
        if device_id
        else None,
    )


def device(
    device_id: str,
    *,
    ended: bool = False,
    epoch: int = 0,
    by: str = "eu",
    on_air: bool = True,
) -> Device:
    """A device of the region that its id begins with; with an `epoch`, it encodes under that."""
    region = device_id.split("-")[0]
    state = ENCODING_STATE_ON_AIR if on_air else ENCODING_STATE_STARTING
    encodings = [Encoding(channel_id="news", epoch=epoch, region=by, state=state)]
    return Device(
        device_id=device_id,
        region=region,
        session=Session(epoch=1, connected_rank=int(ended), gateway_region=region),
        encodings=Encodings(encodings=encodings if epoch else []),
    )


def board(*entities: Channel | Device) -> Board:
    made = Board("eu", ("eu", "us", "ap"))
    channels = {e.channel_id: e for e in entities if isinstance(e, Channel)}
    devices = {e.device_id: e for e in entities if isinstance(e, Device)}
    made.apply(Change(channels=channels, whole="channels", reach_of="channels", reach=ALL_HEARD), 0)
    assert not made.ready
    found = made.apply(
        Change(devices=devices, whole="devices", reach_of="devices", reach=ALL_HEARD), 0
    )
    assert made.ready and not found.events
    return made


def now(made: Board, *entities: Channel | Device) -> list[tuple[api.EventKind.ValueType, str]]:
    """Applies changes; returns kinds and devices of what happened."""
    outcome = made.apply(
        Change(
            channels={e.channel_id: e for e in entities if isinstance(e, Channel)},
            devices={e.device_id: e for e in entities if isinstance(e, Device)},
        ),
        NOW,
    )
    return [(event.kind, event.device_id) for event in outcome.events]


def state(made: Board) -> api.ChannelState.ValueType:
    return made.overview(NOW).channels[0].state


def test_how_a_channel_stands() -> None:
    made = board(Channel(channel_id="news", intent=INTENT_STOPPED))
    assert state(made) == api.CHANNEL_STATE_STOPPED
    now(made, channel())
    assert state(made) == api.CHANNEL_STATE_UNASSIGNED
    now(made, channel("eu-1"))
    assert state(made) == api.CHANNEL_STATE_LOST
    assert now(made, device("eu-1", epoch=1, on_air=False)) == [
        (api.EVENT_KIND_DEVICE_CONNECTED, "eu-1")
    ]
    assert state(made) == api.CHANNEL_STATE_STARTING
    assert now(made, device("eu-1", epoch=1)) == [(api.EVENT_KIND_ON_AIR, "eu-1")]
    assert state(made) == api.CHANNEL_STATE_ON_AIR
    assert now(made, device("eu-1", epoch=1, ended=True)) == [
        (api.EVENT_KIND_DEVICE_LOST, "eu-1"),
        (api.EVENT_KIND_OFF_AIR, "eu-1"),
    ]
    assert state(made) == api.CHANNEL_STATE_LOST


def test_a_takeover() -> None:
    made = board(channel("eu-1"), device("eu-1", epoch=1), device("eu-2"))
    assert now(made, channel("eu-2", 2, previous_device_id="eu-1")) == [
        (api.EVENT_KIND_TOOK_OVER, "eu-2")
    ]
    # Both run for a while.
    now(made, device("eu-2", epoch=2))
    assert [r.device_id for r in made.overview(NOW).channels[0].encodings] == ["eu-1", "eu-2"]


def test_channels_that_only_a_device_knows_are_not_remembered() -> None:
    """Else a device that reports a new one each time fills the memory."""
    made = board(channel("eu-1"), device("eu-1", epoch=1))
    made_up = [Encoding(channel_id=f"x{n}", epoch=1, region="eu") for n in range(100)]
    liar = device("eu-1", epoch=1)
    liar.encodings.encodings.extend(made_up)
    now(made, liar)
    assert set(made._deciders) == {"news"}


def test_a_new_standby_is_no_event() -> None:
    made = board(channel("eu-1"), device("eu-1", epoch=1))
    assert now(made, channel("eu-1", 2, standby_device_id="eu-2")) == []


def test_an_adoption() -> None:
    made = board(channel("us-1", region="us"), device("us-1", epoch=1, by="us"))
    assert now(made, channel("eu-1", 2, "eu", previous_device_id="us-1"), device("eu-1")) == [
        (api.EVENT_KIND_ADOPTED, "eu-1"),
        (api.EVENT_KIND_DEVICE_CONNECTED, "eu-1"),
    ]


def test_a_conflict_is_seen_where_a_decision_lost() -> None:
    mine = channel("eu-2", 2, previous_device_id="eu-1")
    made = board(mine, device("eu-2", epoch=2), device("us-1"))
    assert now(made, channel("us-1", 2, "us", previous_device_id="eu-1")) == [
        (api.EVENT_KIND_CONFLICTED, "us-1")
    ]


def test_a_decision_that_did_not_know_ours_is_a_conflict_too() -> None:
    mine = channel("eu-2", 2, previous_device_id="eu-1")
    made = board(mine, device("eu-2", epoch=2), device("us-2"))
    assert now(made, channel("us-2", 3, "us", previous_device_id="us-1")) == [
        (api.EVENT_KIND_CONFLICTED, "us-2")
    ]


def test_a_conflict_is_seen_where_a_decision_won_and_told_once() -> None:
    made = board(channel("us-1", 2, "us"), device("eu-2"), device("us-1", epoch=2, by="us"))
    lost = device("eu-2", epoch=2, by="eu")
    assert now(made, lost) == [(api.EVENT_KIND_CONFLICTED, "eu-2")]
    lost.encodings.encodings[0].frames = 7
    assert now(made, lost) == []


def test_a_conflict_that_an_encoding_told_is_not_told_again() -> None:
    mine = channel("eu-2", 2, previous_device_id="us-1")
    made = board(mine, device("eu-2", epoch=2), device("us-1"))
    winner = channel("us-1", 2, "us", previous_device_id="us-2")
    assert now(made, device("us-1", epoch=2, by="us")) == [(api.EVENT_KIND_CONFLICTED, "us-1")]
    assert now(made, winner) == []
    assert now(made, device("eu-2", epoch=2)) == []


def test_decisions_that_were_not_seen_are_no_conflict() -> None:
    made = board(channel("eu-1", 1), device("eu-1", epoch=1), device("us-2"))
    assert now(made, channel("us-2", 3, "us", previous_device_id="us-1")) == [
        (api.EVENT_KIND_ADOPTED, "us-2")
    ]


def test_regions_are_lost_once_no_group_hears_them() -> None:
    made = board(device("us-1"), channel("us-1", region="us"))
    gone = {"us": Heard(False, NOW), "ap": Heard(True, NOW)}
    first = made.apply(Change(reach_of="devices", reach=gone), NOW)
    assert [e.kind for e in first.events] == [api.EVENT_KIND_DEVICE_LOST]
    second = made.apply(Change(reach_of="channels", reach=gone), NOW)
    assert [(e.kind, e.region) for e in second.events] == [(api.EVENT_KIND_REGION_LOST, "us")]
    assert second.update is not None and not second.update.regions[0].reachable
    back = made.apply(Change(reach_of="channels", reach=ALL_HEARD), NOW)
    assert [(e.kind, e.region) for e in back.events] == [(api.EVENT_KIND_REGION_RETURNED, "us")]
    # Being heard again and again is no news.
    later = {region: Heard(True, NOW + 5) for region in ALL_HEARD}
    again = made.apply(Change(reach_of="channels", reach=later), NOW)
    assert again.update is None and not again.events


def test_what_is_deleted_and_what_a_new_snapshot_leaves_out() -> None:
    made = board(channel("eu-1"), device("eu-1"), device("eu-2"))
    found = made.apply(Change(channels={"news": None}, devices={"eu-1": None}), NOW)
    assert found.update is not None
    assert list(found.update.deleted_channels) == ["news"]
    assert list(found.update.deleted_devices) == ["eu-1"]
    found = made.apply(Change(whole="devices"), NOW)
    assert found.update is not None and list(found.update.deleted_devices) == ["eu-2"]
    assert not made.overview(NOW).devices


def test_updates_bring_a_watcher_to_the_same_picture() -> None:
    made = board(channel("eu-1"), device("eu-1"))
    seen = {c.channel.channel_id: c for c in made.overview(NOW).channels}
    for entity in (device("eu-1", epoch=1), channel("eu-1", 2), device("eu-1", ended=True)):
        outcome = made.apply(
            Change(devices={"eu-1": entity})
            if isinstance(entity, Device)
            else Change(channels={"news": entity}),
            NOW,
        )
        assert outcome.update is not None
        seen |= {c.channel.channel_id: c for c in outcome.update.channels}
        assert list(seen.values()) == list(made.overview(NOW).channels)


class Feed:
    """A feed that a test writes."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[WatchEvent] = asyncio.Queue()

    def __aiter__(self) -> Feed:
        return self

    async def __anext__(self) -> WatchEvent:
        return await self.events.get()


def view(entity: Channel | Device, key: str) -> View:
    return View(
        type=entity.DESCRIPTOR.full_name,
        key=key,
        generation=1,
        deleted=False,
        last_change=LastChange("test", Origin("eu", 1), 0),
        value=entity.SerializeToString(),
        message_class=type(entity),
    )


@pytest.fixture
async def served() -> AsyncIterator[tuple[OverviewService, Feed, Feed]]:
    service = OverviewService(Board("eu", ("eu", "us")), lambda: NOW)
    channels, devices = Feed(), Feed()
    tasks = [
        asyncio.create_task(service.follow("channels", channels)),
        asyncio.create_task(service.follow("devices", devices)),
    ]
    yield service, channels, devices
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_watchers_get_a_snapshot_then_updates_and_events(
    served: tuple[OverviewService, Feed, Feed],
) -> None:
    service, channels, devices = served
    with pytest.raises(Unavailable, match="no whole picture yet"):
        await service.GetOverview(api.GetOverviewRequest(), Mock())
    reach = {"us": Reach(True, NOW)}
    channels.events.put_nowait(Snapshot((view(channel("eu-1"), "news"),), reach, {}))
    devices.events.put_nowait(Snapshot((), reach, {}))
    devices.events.put_nowait(ReachChanged(reach))
    await until(lambda: devices.events.empty() and channels.events.empty())
    got = await service.GetOverview(api.GetOverviewRequest(), Mock())
    watching = service.WatchOverview(api.WatchOverviewRequest(), Mock())
    assert (await anext(watching)).snapshot == got.overview
    devices.events.put_nowait(Batch((EntityChange(None, view(device("eu-1", epoch=1), "eu-1")),)))
    messages = [await anext(watching) for _ in range(3)]
    assert messages[0].update.channels[0].state == api.CHANNEL_STATE_ON_AIR
    assert [m.event.kind for m in messages[1:]] == [
        api.EVENT_KIND_DEVICE_CONNECTED,
        api.EVENT_KIND_ON_AIR,
    ]

    for epoch in range(2, QUEUE + 10):
        changed = view(channel("eu-1", epoch), "news")
        channels.events.put_nowait(Batch((EntityChange(None, changed),)))
    await until(channels.events.empty)
    with pytest.raises(ResourceExhausted, match="watch again"):
        await anext(watching)
