"""From the two groups' events to the world that the reconciler decides in. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from isthmus.channels.v1.channel_pb2 import Channel
from isthmus.devices.v1.device_pb2 import Device

from mesh.replication import Batch, Reach, ReachChanged, Snapshot, View, WatchEvent
from services.channels.reconciler import World

BLIND_MS = 3_000
"""The devices' feed says how regions stand once a second; silent for longer, it is no witness."""

SETTLE_MS = 1_000
"""After a start, how long a peer must be heard for its latest decisions to be here."""


class Observer:
    """What one region's reconciler knows beside the channels themselves.

    It sees no world while it is blind: before the first picture of the devices, while their feed
    is silent, and after its own start until it caught up with every region that lives. A region
    that returns would else decide by what it knew before it went.
    """

    def __init__(self, region: str, ring: Sequence[str], started_ms: int, region_ms: int) -> None:
        """`ring` holds all regions; `region_ms` is how long silence lasts before it is loss."""
        self._region = region
        self._ring = tuple(ring)
        self._started_ms = started_ms
        self._region_ms = region_ms
        self._devices: dict[str, Device] = {}
        self._gateways: Mapping[str, Reach] = {}
        self._seen_ms: int | None = None
        self._ended: dict[str, int] = {}
        self._heard: dict[str, int] = {}
        self._settled = False

    def devices_event(self, event: WatchEvent, now_ms: int) -> None:
        """Takes a message of the devices' feed."""
        self._seen_ms = now_ms
        match event:
            case Snapshot():
                self._devices.clear()
                # Whatever ended while nobody looked gets its time to come back.
                self._ended.clear()
                for view in event.entities:
                    self._device(view, now_ms)
                self._gateways = event.reach
            case Batch():
                for change in event.changes:
                    self._device(change.new, now_ms)
            case ReachChanged():
                self._gateways = event.reach

    def world(
        self, channels: Sequence[Channel], reach: Mapping[str, Reach], now_ms: int
    ) -> World | None:
        """The world, None while blind; `reach` is that of the channels' own group."""
        if self._seen_ms is None or now_ms - self._seen_ms > BLIND_MS:
            return None
        silent = self._silent(reach)
        if not self._settled:
            self._settled = self._settles(silent, now_ms)
            if not self._settled:
                return None
        return World(
            region=self._region,
            ring=self._ring,
            now_ms=now_ms,
            channels=channels,
            devices=list(self._devices.values()),
            silent=silent,
            gateways_silent=self._silent(self._gateways),
            ended=dict(self._ended),
        )

    def _device(self, view: View, now_ms: int) -> None:
        device = view.message
        if not isinstance(device, Device):
            return
        if view.deleted:
            self._devices.pop(view.key, None)
            self._ended.pop(view.key, None)
            return
        self._devices[view.key] = device
        if device.session.connected_rank:
            self._ended.setdefault(view.key, now_ms)
        else:
            self._ended.pop(view.key, None)

    def _silent(self, reach: Mapping[str, Reach]) -> dict[str, int]:
        since = {}
        for region in self._ring:
            known = reach.get(region)
            if region == self._region or (known is not None and known.reachable):
                continue
            heard = known.last_heard_ms if known is not None else None
            since[region] = max(heard or 0, self._started_ms)
        return since

    def _settles(self, silent: Mapping[str, int], now_ms: int) -> bool:
        for region in self._ring:
            if region == self._region:
                continue
            if region in silent:
                self._heard.pop(region, None)
                if now_ms - silent[region] < self._region_ms:
                    return False
            elif now_ms - self._heard.setdefault(region, now_ms) < SETTLE_MS:
                return False
        return True
