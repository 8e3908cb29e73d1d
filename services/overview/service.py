"""The methods of isthmus.overview.v1.OverviewService, and the feeds behind them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any

import grpc
from isthmus.channels.v1.channel_pb2 import Channel
from isthmus.devices.v1.device_pb2 import Device
from isthmus.overview.v1 import overview_pb2 as api
from isthmus.overview.v1.overview_pb2_grpc import OverviewServiceServicer

from mesh.replication import Batch, Reach, ReachChanged, Snapshot, View, WatchEvent
from mesh.runtime import ResourceExhausted, Unavailable
from services.overview.domain import Board, Change, Heard

Context = grpc.aio.ServicerContext[Any, Any]

QUEUE = 256
"""Messages that may wait for one watcher."""


class _Watcher:
    """One watcher's queue; it breaks when it is full, since nothing may be left out."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[api.WatchOverviewResponse] = asyncio.Queue(QUEUE)
        self.broken = False

    def put(self, message: api.WatchOverviewResponse) -> None:
        try:
            self.messages.put_nowait(message)
        except asyncio.QueueFull:
            self.broken = True


class OverviewService(OverviewServiceServicer):
    """Serves one board to all that ask."""

    def __init__(self, board: Board, now_ms: Callable[[], int]) -> None:
        self._board = board
        self._now_ms = now_ms
        self._watchers: set[_Watcher] = set()

    async def follow(self, group: str, events: AsyncIterator[WatchEvent]) -> None:
        """Keeps the board up to date with a group's feed; runs until cancelled."""
        async for event in events:
            now = self._now_ms()
            outcome = self._board.apply(change_of(group, event), now)
            for message in (
                *([api.WatchOverviewResponse(update=outcome.update)] if outcome.update else []),
                *(api.WatchOverviewResponse(event=happened) for happened in outcome.events),
            ):
                for watcher in self._watchers:
                    watcher.put(message)

    async def GetOverview(
        self, request: api.GetOverviewRequest, context: Context
    ) -> api.GetOverviewResponse:
        """The picture now."""
        self._check_ready()
        return api.GetOverviewResponse(overview=self._board.overview(self._now_ms()))

    async def WatchOverview(
        self, request: api.WatchOverviewRequest, context: Context
    ) -> AsyncIterator[api.WatchOverviewResponse]:
        """The picture now, and all that comes."""
        self._check_ready()
        watcher = _Watcher()
        # No await between the two: nothing is left out, nothing comes twice.
        snapshot = self._board.overview(self._now_ms())
        self._watchers.add(watcher)
        try:
            yield api.WatchOverviewResponse(snapshot=snapshot)
            while True:
                message = await watcher.messages.get()
                if watcher.broken:
                    raise ResourceExhausted(
                        f"this watcher fell {QUEUE} messages behind: watch again",
                        reason="WATCHER_TOO_SLOW",
                    )
                yield message
        finally:
            self._watchers.discard(watcher)

    def _check_ready(self) -> None:
        if not self._board.ready:
            raise Unavailable(
                "this region has no whole picture yet: ask another, or again in a second",
                reason="OVERVIEW_NOT_READY",
            )


def change_of(group: str, event: WatchEvent) -> Change:
    """A feed's message as the board takes it; `group` is channels or devices."""
    match event:
        case Snapshot():
            channels, devices = _entities(event.entities)
            return Change(channels, devices, group, group, _reach(event.reach))
        case Batch():
            channels, devices = _entities(change.new for change in event.changes)
            return Change(channels, devices)
        case ReachChanged():
            return Change(reach_of=group, reach=_reach(event.reach))


def _entities(
    views: Iterable[View],
) -> tuple[dict[str, Channel | None], dict[str, Device | None]]:
    channels: dict[str, Channel | None] = {}
    devices: dict[str, Device | None] = {}
    for view in views:
        message = view.message
        if isinstance(message, Channel):
            channels[view.key] = None if view.deleted else message
        elif isinstance(message, Device):
            devices[view.key] = None if view.deleted else message
    return channels, devices


def _reach(reach: Mapping[str, Reach]) -> dict[str, Heard]:
    return {region: Heard(known.reachable, known.last_heard_ms) for region, known in reach.items()}
