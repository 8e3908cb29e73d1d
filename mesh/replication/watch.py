"""Watchers of a group: bounded queues between commits and those who follow them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection

from mesh.replication.errors import GroupClosed, WatcherTooSlow
from mesh.replication.views import Batch, Snapshot, WatchEvent

QUEUE_LENGTH = 1024
"""How many events a watcher may lag behind."""


class Watcher:
    """One watcher's queue; `types` are the message types that it sees (None: all)."""

    def __init__(self, types: Collection[str] | None) -> None:
        self.types = types
        self._events: asyncio.Queue[WatchEvent | None] = asyncio.Queue()
        self._too_slow = False

    def offer(self, event: WatchEvent) -> None:
        """Queues an event, or gives up on a watcher that does not keep up."""
        if self._too_slow:
            return
        if isinstance(event, Batch) and self.types is not None:
            event = Batch(
                tuple(change for change in event.changes if change.new.type in self.types),
                tuple(conflict for conflict in event.conflicts if conflict.type in self.types),
            )
        if isinstance(event, Batch) and not (event.changes or event.conflicts):
            return
        if self._events.qsize() >= QUEUE_LENGTH:
            self._too_slow = True
            self._events = asyncio.Queue()
            return
        self._events.put_nowait(event)

    def close(self) -> None:
        """Ends the watcher: the group closes."""
        self._events.put_nowait(None)

    async def next(self) -> WatchEvent:
        """The next event. Raises `WatcherTooSlow` and `GroupClosed`."""
        if self._too_slow:
            raise WatcherTooSlow(
                f"more than {QUEUE_LENGTH} changes were not taken in time: watch again"
            )
        event = await self._events.get()
        if event is None:
            raise GroupClosed("the group is closed")
        return event


class Watchers:
    """All who watch a group."""

    def __init__(self) -> None:
        self._watchers: set[Watcher] = set()

    def __bool__(self) -> bool:
        """Whether anybody does."""
        return bool(self._watchers)

    async def follow(
        self, types: Collection[str] | None, snapshot: Callable[[], Snapshot]
    ) -> AsyncIterator[WatchEvent]:
        """A snapshot, then all that is offered since. Raises `WatcherTooSlow`, `GroupClosed`."""
        watcher = Watcher(types)
        self._watchers.add(watcher)
        try:
            yield snapshot()
            while True:
                yield await watcher.next()
        finally:
            self._watchers.discard(watcher)

    def offer(self, event: WatchEvent) -> None:
        """Shows an event to all."""
        for watcher in tuple(self._watchers):
            watcher.offer(event)

    def close(self) -> None:
        """Ends all: the group closes."""
        for watcher in self._watchers:
            watcher.close()
