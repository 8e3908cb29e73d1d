"""The global picture: from what changed to the new picture, its update, and what happened.

Pure: it takes changes and the time, and returns messages.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from google.protobuf.timestamp_pb2 import Timestamp
from isthmus.channels.v1.channel_pb2 import INTENT_ON_AIR, Assignment, Channel
from isthmus.devices.v1.device_pb2 import ENCODING_STATE_ON_AIR, Device
from isthmus.overview.v1 import overview_pb2 as api

M = TypeVar("M")

_REMEMBERED = 16
"""Epochs of a channel for which the deciding region is remembered."""


@dataclass(frozen=True)
class Heard:
    """Whether a region is heard, and when it was last (milliseconds since 1970; None: never)."""

    reachable: bool
    last_ms: int | None


@dataclass(frozen=True)
class Change:
    """What one message of a feed says.

    None marks a deleted entity. `whole` says that `channels` or `devices` are all that there are.
    `reach` is that of the named group.
    """

    channels: Mapping[str, Channel | None] = field(default_factory=dict)
    devices: Mapping[str, Device | None] = field(default_factory=dict)
    whole: str = ""
    reach_of: str = ""
    reach: Mapping[str, Heard] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What watchers are told: `update` is None if nothing of the picture changed."""

    update: api.Update | None
    events: tuple[api.Event, ...]


class Board:
    """The picture as one region has it.

    Until it has a first picture of both channels and devices it is not `ready`, and reports no
    events: what it finds then is no news.
    """

    def __init__(self, region: str, ring: Sequence[str]) -> None:
        self._region = region
        self._ring = tuple(ring)
        self._channels: dict[str, Channel] = {}
        self._devices: dict[str, Device] = {}
        self._reach: dict[str, Mapping[str, Heard]] = {"channels": {}, "devices": {}}
        self._views: dict[str, api.ChannelView] = {}
        self._connected: set[str] = set()
        self._deciders: dict[str, dict[int, str]] = {}
        self._missing = {"channels", "devices"}

    @property
    def ready(self) -> bool:
        """Whether the picture is whole."""
        return not self._missing

    def overview(self, now_ms: int) -> api.Overview:
        """All of it."""
        return api.Overview(
            region=self._region,
            time=_timestamp(now_ms),
            regions=[self._region_view(region, now_ms) for region in self._ring],
            channels=[view for _, view in sorted(self._views.items())],
            devices=[device for _, device in sorted(self._devices.items())],
        )

    def apply(self, change: Change, now_ms: int) -> Outcome:
        """Takes a change in; says what it means."""
        was_ready = self.ready
        before_regions = self._regions_without_times(now_ms)
        before_heard = {region: self._heard(region) for region in self._ring}
        before_views, before_connected = dict(self._views), set(self._connected)
        before_channels = {key: self._channels.get(key) for key in change.channels}
        if change.whole == "channels":
            before_channels |= self._channels

        changed, deleted_channels = _merge(
            self._channels, change.channels, change.whole == "channels"
        )
        changed_devices, deleted_devices = _merge(
            self._devices, change.devices, change.whole == "devices"
        )
        if change.reach_of:
            self._reach[change.reach_of] = change.reach
        self._missing.discard(change.whole)
        self._refresh()

        events: list[api.Event] = []
        for channel_id in changed:
            events += self._decisions(
                before_channels.get(channel_id), self._channels[channel_id], now_ms
            )
        for device_id in changed_devices:
            events += self._conflicts_in_encodings(self._devices[device_id], now_ms)
        for channel_id in deleted_channels:
            self._deciders.pop(channel_id, None)
        if not was_ready:
            return Outcome(None, ())
        events += self._happened_to_regions(before_heard, now_ms)
        events += self._happened_to_devices(before_connected, now_ms)
        events += self._happened_to_pictures(before_views, now_ms)

        after = self._regions_without_times(now_ms)
        update = api.Update(
            regions=[
                self._region_view(region, now_ms)
                for region in self._ring
                if before_regions[region] != after[region]
            ],
            channels=[
                view
                for channel_id, view in sorted(self._views.items())
                if before_views.get(channel_id) != view
            ],
            devices=[self._devices[device_id] for device_id in changed_devices],
            deleted_channels=deleted_channels,
            deleted_devices=deleted_devices,
        )
        return Outcome(update if update.ByteSize() else None, tuple(events))

    # ---- views

    def _refresh(self) -> None:
        self._connected = {
            device_id for device_id, device in self._devices.items() if self._reaches(device)
        }
        running: dict[str, list[api.RunningEncoding]] = {}
        for device_id in sorted(self._connected):
            device = self._devices[device_id]
            for encoding in device.encodings.encodings:
                running.setdefault(encoding.channel_id, []).append(
                    api.RunningEncoding(
                        device_id=device_id,
                        gateway_region=device.session.gateway_region,
                        encoding=encoding,
                    )
                )
        self._views = {
            channel_id: self._view(channel, running.get(channel_id, []))
            for channel_id, channel in self._channels.items()
        }

    def _view(self, channel: Channel, running: list[api.RunningEncoding]) -> api.ChannelView:
        device_id = channel.assignment.device_id
        if not device_id:
            wanted = channel.intent == INTENT_ON_AIR
            state = api.CHANNEL_STATE_UNASSIGNED if wanted else api.CHANNEL_STATE_STOPPED
        elif device_id not in self._connected:
            state = api.CHANNEL_STATE_LOST
        elif any(r.encoding.state == ENCODING_STATE_ON_AIR for r in running):
            state = api.CHANNEL_STATE_ON_AIR
        else:
            state = api.CHANNEL_STATE_STARTING
        return api.ChannelView(channel=channel, state=state, encodings=running)

    def _reaches(self, device: Device) -> bool:
        session = device.session
        if not session.epoch or session.connected_rank:
            return False
        gateway = self._reach["devices"].get(session.gateway_region)
        return session.gateway_region == self._region or (gateway is not None and gateway.reachable)

    def _heard(self, region: str) -> bool:
        """Whether any of the two groups hears it."""
        return region == self._region or any(
            reach[region].reachable for reach in self._reach.values() if region in reach
        )

    def _region_view(self, region: str, now_ms: int) -> api.RegionView:
        times = [reach[region].last_ms or 0 for reach in self._reach.values() if region in reach]
        last = now_ms if region == self._region else max(times, default=0)
        on_air = (
            self._devices.get(view.channel.assignment.device_id)
            for view in self._views.values()
            if view.state == api.CHANNEL_STATE_ON_AIR
        )
        return api.RegionView(
            region=region,
            reachable=self._heard(region),
            last_heard=_timestamp(last) if last else None,
            devices_connected=sum(self._devices[d].region == region for d in self._connected),
            channels_on_air=sum(d is not None and d.region == region for d in on_air),
        )

    def _regions_without_times(self, now_ms: int) -> dict[str, api.RegionView]:
        views = {region: self._region_view(region, now_ms) for region in self._ring}
        for view in views.values():
            view.ClearField("last_heard")
        return views

    # ---- events

    def _decisions(
        self, before: Channel | None, after: Channel, now_ms: int
    ) -> Iterator[api.Event]:
        old, new = (before or Channel()).assignment, after.assignment
        key = after.channel_id
        told = self._deciders.get(key, {}).get(new.epoch) == ""
        conflict = self._notes_conflict(key, new.epoch, new.region)
        if not self.ready or not old.epoch or old == new:
            return
        if not _based_on(old, new):
            self._deciders[key][new.epoch] = ""
            conflict = not told
        if told and not conflict:
            return
        if conflict:
            yield _event(
                api.EVENT_KIND_CONFLICTED,
                now_ms,
                f"{old.region} and {new.region} had both decided about {key}; "
                f"epoch {new.epoch} of {new.region} won",
                region=new.region,
                channel_id=key,
                device_id=new.device_id,
            )
        elif old.device_id and new.device_id and old.region != new.region:
            yield _event(
                api.EVENT_KIND_ADOPTED,
                now_ms,
                f"{new.region} adopted {key} from {old.region}; {new.device_id} encodes it",
                region=new.region,
                channel_id=key,
                device_id=new.device_id,
            )
        elif old.device_id and new.device_id and old.device_id != new.device_id:
            yield _event(
                api.EVENT_KIND_TOOK_OVER,
                now_ms,
                f"{new.device_id} took over {key} from {old.device_id}",
                region=new.region,
                channel_id=key,
                device_id=new.device_id,
            )

    def _conflicts_in_encodings(self, device: Device, now_ms: int) -> Iterator[api.Event]:
        """A losing decision is nowhere to be read, but what obeys it is."""
        for encoding in device.encodings.encodings:
            if encoding.channel_id not in self._channels and "channels" not in self._missing:
                continue  # nothing that devices make up is remembered
            conflict = self._notes_conflict(encoding.channel_id, encoding.epoch, encoding.region)
            if conflict and self.ready:
                yield _event(
                    api.EVENT_KIND_CONFLICTED,
                    now_ms,
                    f"two regions had both decided about {encoding.channel_id} under epoch "
                    f"{encoding.epoch}; {device.device_id} obeyed {encoding.region}",
                    region=encoding.region,
                    channel_id=encoding.channel_id,
                    device_id=device.device_id,
                )

    def _notes_conflict(self, channel_id: str, epoch: int, region: str) -> bool:
        """Remembers who decided under an epoch; whether another region did, told once."""
        if not epoch:
            return False
        deciders = self._deciders.setdefault(channel_id, {})
        known = deciders.get(epoch)
        if known is None:
            deciders[epoch] = region
            while len(deciders) > _REMEMBERED:
                del deciders[min(deciders)]
            return False
        if known in ("", region):
            return False
        deciders[epoch] = ""
        return True

    def _happened_to_regions(self, before: Mapping[str, bool], now_ms: int) -> Iterator[api.Event]:
        for region in self._ring:
            heard = self._heard(region)
            if heard == before[region]:
                continue
            kind = api.EVENT_KIND_REGION_RETURNED if heard else api.EVENT_KIND_REGION_LOST
            what = "is heard again" if heard else "is not heard any more"
            yield _event(kind, now_ms, f"region {region} {what}", region=region)

    def _happened_to_devices(self, before: set[str], now_ms: int) -> Iterator[api.Event]:
        for device_id in sorted(before ^ self._connected):
            device = self._devices.get(device_id)
            region = device.session.gateway_region if device is not None else ""
            if device_id in self._connected:
                yield _event(
                    api.EVENT_KIND_DEVICE_CONNECTED,
                    now_ms,
                    f"{device_id} is connected to {region}",
                    region=region,
                    device_id=device_id,
                )
            else:
                yield _event(
                    api.EVENT_KIND_DEVICE_LOST,
                    now_ms,
                    f"{device_id} is lost",
                    region=region,
                    device_id=device_id,
                )

    def _happened_to_pictures(
        self, before: Mapping[str, api.ChannelView], now_ms: int
    ) -> Iterator[api.Event]:
        for channel_id in sorted(before.keys() | self._views.keys()):
            old, new = before.get(channel_id), self._views.get(channel_id)
            was = old is not None and old.state == api.CHANNEL_STATE_ON_AIR
            is_now = new is not None and new.state == api.CHANNEL_STATE_ON_AIR
            if was == is_now:
                continue
            view = new or old or api.ChannelView()
            yield _event(
                api.EVENT_KIND_ON_AIR if is_now else api.EVENT_KIND_OFF_AIR,
                now_ms,
                f"{channel_id} is on air" if is_now else f"{channel_id} is off air",
                region=view.channel.assignment.region,
                channel_id=channel_id,
                device_id=view.channel.assignment.device_id,
            )


def _merge(
    known: dict[str, M], news: Mapping[str, M | None], whole: bool
) -> tuple[list[str], list[str]]:
    """Brings `known` up to date; returns the keys that changed and those that are gone."""
    gone = {key for key, value in news.items() if value is None and key in known}
    if whole:
        gone |= known.keys() - news.keys()
    for key in gone:
        del known[key]
    changed = [
        key for key, value in sorted(news.items()) if value is not None and known.get(key) != value
    ]
    for key in changed:
        value = news[key]
        if value is not None:
            known[key] = value
    return changed, sorted(gone)


def _based_on(old: Assignment, new: Assignment) -> bool:
    """Whether who decided `new` may have known `old`.

    It did if it is the next one and starts from the same encoder; of one further on nobody can
    say, since decisions in between were seen by nobody here.
    """
    if old.region == new.region or new.epoch > old.epoch + 1 or not old.device_id:
        return True
    return new.epoch > old.epoch and old.device_id in (new.device_id, new.previous_device_id)


def _event(
    kind: api.EventKind.ValueType,
    now_ms: int,
    text: str,
    *,
    region: str = "",
    channel_id: str = "",
    device_id: str = "",
) -> api.Event:
    return api.Event(
        kind=kind,
        time=_timestamp(now_ms),
        region=region,
        channel_id=channel_id,
        device_id=device_id,
        text=text,
    )


def _timestamp(milliseconds: int) -> Timestamp:
    time = Timestamp()
    time.FromMilliseconds(milliseconds)
    return time
