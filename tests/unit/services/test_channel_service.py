"""The channels' methods over a real group, and the pure rules behind them."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from unittest.mock import Mock

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from isthmus.channels.v1 import channels_pb2 as api
from isthmus.channels.v1.channel_pb2 import (
    INTENT_ON_AIR,
    INTENT_STOPPED,
    TEST_PATTERN_BARS,
    Profile,
    Source,
)
from isthmus.devices.v1 import devices_pb2 as devices_api
from isthmus.devices.v1.device_pb2 import DUTY_ACTIVE, DUTY_MAINTENANCE, Device, Session

from mesh.replication import Transaction
from mesh.runtime import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from services.channels.domain import PROFILE_PATHS, expand_mask
from services.channels.service import ChannelService
from services.devices.service import DeviceService
from services.paging import page_by_key, page_of_log
from tests.unit.services.kit import calls_as, group, own_writes

BARS = Source(test_pattern=TEST_PATTERN_BARS)
CONTEXT = Mock()


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[ChannelService]:
    async with group("channels", tmp_path) as opened:
        calls_as("operator", "first")
        yield ChannelService(opened, ("eu", "us", "ap"))


async def create(service: ChannelService, channel_id: str, **values: object) -> None:
    calls_as("operator", "first")
    request = api.CreateChannelRequest(channel_id=channel_id, source=BARS, **values)  # type: ignore[arg-type] # a test's shorthand
    await service.CreateChannel(request, CONTEXT)


async def test_a_channels_life(service: ChannelService) -> None:
    await create(service, "news", title="News", labels=["a", "b"], profile=Profile(width=640))
    with pytest.raises(AlreadyExists):
        await create(service, "news")
    start = await service.StartChannel(api.StartChannelRequest(channel_id="news"), CONTEXT)
    assert (start.channel.intent, start.channel.home_region) == (INTENT_ON_AIR, "eu")
    assert sorted(start.channel.labels) == ["a", "b"]

    update = api.UpdateChannelRequest(
        channel_id="news",
        update=api.ChannelUpdate(title="Late", profile=Profile(height=360), home_region="us"),
        update_mask=FieldMask(paths=["title", "profile.height"]),
        add_labels=["c"],
        remove_labels=["a"],
    )
    changed = (await service.UpdateChannel(update, CONTEXT)).channel
    assert (changed.title, changed.home_region) == ("Late", "eu")
    assert (changed.profile.width, changed.profile.height) == (640, 360)
    assert sorted(changed.labels) == ["b", "c"]

    with pytest.raises(FailedPrecondition, match="stop it first"):
        await service.DeleteChannel(api.DeleteChannelRequest(channel_id="news"), CONTEXT)
    stop = await service.StopChannel(api.StopChannelRequest(channel_id="news"), CONTEXT)
    assert stop.channel.intent == INTENT_STOPPED
    await service.DeleteChannel(api.DeleteChannelRequest(channel_id="news"), CONTEXT)
    with pytest.raises(NotFound):
        await service.GetChannel(api.GetChannelRequest(channel_id="news"), CONTEXT)

    history = api.ListChannelHistoryRequest(channel_id="news", page_size=2)
    first = await service.ListChannelHistory(history, CONTEXT)
    assert first.changes[0].deleted and first.next_page_token
    assert first.changes[1].fields == ["intent"]
    assert {change.actor for change in first.changes} == {"spiffe://isthmus.test/operator/first"}
    history.page_token = first.next_page_token
    second = await service.ListChannelHistory(history, CONTEXT)
    assert len(second.changes) == 2
    with pytest.raises(NotFound):
        await service.ListChannelHistory(api.ListChannelHistoryRequest(channel_id="none"), CONTEXT)


async def test_a_repeat_returns_the_first_result(service: ChannelService) -> None:
    calls_as("operator", "first")
    request = api.CreateChannelRequest(channel_id="news", source=BARS, request_id=str(uuid.uuid4()))
    first = await service.CreateChannel(request, CONTEXT)
    assert await service.CreateChannel(request, CONTEXT) == first


async def test_wrong_requests_name_their_fields(service: ChannelService) -> None:
    with pytest.raises(InvalidArgument, match="home_region: 'mars' is no region"):
        await create(service, "news", home_region="mars")
    await create(service, "news")
    for update, paths, said in (
        (api.ChannelUpdate(), ["channel_id"], "cannot be changed"),
        (api.ChannelUpdate(), ["source"], "update.source"),
        (api.ChannelUpdate(home_region="mars"), ["home_region"], "update.home_region"),
        (api.ChannelUpdate(), [], "names nothing"),
    ):
        request = api.UpdateChannelRequest(
            channel_id="news", update=update, update_mask=FieldMask(paths=paths)
        )
        with pytest.raises(InvalidArgument, match=said):
            await service.UpdateChannel(request, CONTEXT)
    with pytest.raises(NotFound, match="no channel 'none'"):
        await service.StartChannel(api.StartChannelRequest(channel_id="none"), CONTEXT)


async def test_lists_come_in_pages(service: ChannelService) -> None:
    for name in ("c", "a", "b"):
        await create(service, name)
    request = api.ListChannelsRequest(page_size=2)
    first = await service.ListChannels(request, CONTEXT)
    assert [channel.channel_id for channel in first.channels] == ["a", "b"]
    request.page_token = first.next_page_token
    second = await service.ListChannels(request, CONTEXT)
    assert [channel.channel_id for channel in second.channels] == ["c"]
    assert not second.next_page_token
    request.page_token = "?"  # noqa: S105 - no secret
    with pytest.raises(InvalidArgument, match="page_token"):
        await service.ListChannels(request, CONTEXT)


def test_a_mask_is_expanded() -> None:
    assert expand_mask(["title", "profile", "profile.width"]) == ["title", *PROFILE_PATHS]


def test_pages_of_a_log_stay_while_it_grows() -> None:
    log = list(range(5, 0, -1))
    first, token = page_of_log(log, 2, "")
    second, token = page_of_log([7, 6, *log], 2, token)
    third, token = page_of_log([8, 7, 6, *log], 2, token)
    assert (first, second, third, token) == ([5, 4], [3, 2], [1], "")
    with pytest.raises(InvalidArgument):
        page_of_log([], 2, page_of_log(log, 2, "")[1])


def test_pages_by_key_stay_while_items_go() -> None:
    _, token = page_by_key(["a", "b", "c", "d"], str, 2, "")
    assert page_by_key(["a", "c", "d"], str, 2, token) == (["c", "d"], "")


async def test_devices_are_steered(tmp_path: Path) -> None:
    async with group("devices", tmp_path) as opened:
        calls_as("operator", "first")
        service = DeviceService(opened)

        def change(transaction: Transaction) -> Device:
            device = Device(
                device_id="encoder-1",
                duty=DUTY_ACTIVE,
                session=Session(epoch=1, gateway_region="us"),
            )
            transaction.create(device)
            return device

        await opened.write(change, own_writes())
        duty = devices_api.SetDutyRequest(device_id="encoder-1", duty=DUTY_MAINTENANCE)
        assert (await service.SetDuty(duty, CONTEXT)).device.duty == DUTY_MAINTENANCE
        labels = devices_api.UpdateLabelsRequest(device_id="encoder-1", add=["x"])
        assert (await service.UpdateLabels(labels, CONTEXT)).device.labels == ["x"]
        labels = devices_api.UpdateLabelsRequest(device_id="encoder-1", remove=["x"])
        assert not (await service.UpdateLabels(labels, CONTEXT)).device.labels
        listed = await service.ListDevices(devices_api.ListDevicesRequest(), CONTEXT)
        got = await service.GetDevice(devices_api.GetDeviceRequest(device_id="encoder-1"), CONTEXT)
        assert list(listed.devices) == [got.device]
        delete = devices_api.DeleteDeviceRequest(device_id="encoder-1")
        with pytest.raises(FailedPrecondition, match="connected to region us"):
            await service.DeleteDevice(delete, CONTEXT)

        def end(transaction: Transaction) -> Device:
            device = Device(
                device_id="encoder-1",
                session=Session(epoch=1, connected_rank=1, gateway_region="us"),
            )
            transaction.set(device, "session")
            return device

        await opened.write(end, own_writes())
        await service.DeleteDevice(delete, CONTEXT)
        with pytest.raises(NotFound):
            await service.DeleteDevice(delete, CONTEXT)
