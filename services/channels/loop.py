"""The reconciler at work: sees, plans, writes, and sees again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import structlog
from isthmus.channels.v1.channel_pb2 import Assignment, AssignmentReason, Channel

from mesh.replication import Group, Transaction, WatchEvent, WriteContext, WriteError
from services.channels.observer import Observer
from services.channels.reconciler import Decision, Patience, plan
from services.following import follow

_log = structlog.get_logger("isthmus.reconciler")

TICK_S = 0.5


class _Overtaken(Exception):
    """The channel is no longer as it was when its decision was made."""


class Loop:
    """One region's reconciler.

    Runs whenever channels, devices or regions change, and every half second because time passing
    is a change too.
    """

    def __init__(
        self,
        group: Group,
        observer: Observer,
        context: Callable[[], WriteContext],
        now_ms: Callable[[], int],
        patience: Patience,
    ) -> None:
        self._group = group
        self._observer = observer
        self._context = context
        self._now_ms = now_ms
        self._patience = patience
        self._changed = asyncio.Event()
        self._waiting: dict[str, str] = {}

    async def watch_devices(self, events: AsyncIterator[WatchEvent]) -> None:
        """Feeds the observer; runs until cancelled."""
        async for event in events:
            self._observer.devices_event(event, self._now_ms())
            self._changed.set()

    async def watch_channels(self) -> None:
        """Wakes the loop; runs until cancelled."""
        async for _ in follow(self._group, Channel):
            self._changed.set()

    async def run(self) -> None:
        """Decides until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), TICK_S)
            self._changed.clear()
            await self.decide()

    async def decide(self) -> None:
        """One round."""
        world = self._observer.world(self._group.list(Channel), self._group.reach(), self._now_ms())
        if world is None:
            return
        found = plan(world, self._patience)
        for decision in found.decisions:
            await self._carry_out(decision)
        for channel_id, text in found.waiting.items():
            if self._waiting.get(channel_id) != text:
                _log.warning("channel waits", channel=channel_id, why=text)
        self._waiting = dict(found.waiting)

    async def _carry_out(self, decision: Decision) -> None:
        def change(transaction: Transaction) -> Assignment:
            channel = transaction.get(Channel, decision.channel_id)
            if channel is None or channel.assignment != decision.base:
                raise _Overtaken
            transaction.set(
                Channel(channel_id=decision.channel_id, assignment=decision.assignment),
                "assignment",
            )
            if decision.moves:
                transaction.increment(Channel, decision.channel_id, "takeovers", 1)
            return decision.assignment

        try:
            await self._group.write(change, self._context())
        except _Overtaken:
            self._changed.set()
        except WriteError as error:
            # The next round decides again.
            _log.error("decision not written", channel=decision.channel_id, error=str(error))
        else:
            _log.info(
                "decided",
                channel=decision.channel_id,
                reason=AssignmentReason.Name(decision.assignment.reason),
                epoch=decision.assignment.epoch,
                device=decision.assignment.device_id,
                standby=decision.assignment.standby_device_id,
            )
