"""Time, and paths between regions that delay, stall and break.

A path carries one direction. What goes over one stream arrives in order; streams overtake one
another. A cut path holds back what is under way, as TCP does, until it heals or the stream breaks.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from typing import Any
from zlib import crc32

from tests.simulation.residency import search_message

JITTER_MS = 7


class Timeline:
    """Events in the order of their times, in milliseconds."""

    def __init__(self) -> None:
        self.now = 0
        self._events: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0

    def after(self, milliseconds: int, do: Callable[..., None], *arguments: Any) -> None:
        """Calls `do` later."""
        self._count += 1
        heapq.heappush(self._events, (self.now + milliseconds, self._count, do, arguments))

    def run(self, milliseconds: int) -> None:
        """Lets time pass."""
        end = self.now + milliseconds
        while self._events and self._events[0][0] <= end:
            self.now, _, do, arguments = heapq.heappop(self._events)
            do(*arguments)
        self.now = end


class Path:
    """One direction between two regions."""

    def __init__(self, timeline: Timeline, source: str, target: str) -> None:
        self.name = f"what {source} sends to {target}"
        self.timeline = timeline
        self.pipes: dict[Pipe, None] = {}
        self.cut = False
        self.tampering = False
        self.lie = ""
        self.delay_ms = 3
        self._state = crc32(f"{source}>{target}".encode())

    def next_delay(self) -> int:
        """How long the next message takes; the same in each run."""
        self._state = (self._state * 1103515245 + 12345) & 0x7FFFFFFF
        return self.delay_ms + (self._state >> 16) % (JITTER_MS + 1)

    def heal(self) -> None:
        """Goes on with what was held back."""
        self.cut = False
        for pipe in tuple(self.pipes):
            pipe.go_on()


class Pipe:
    """One direction of one stream; `take` is called with each message at the other end."""

    def __init__(self, path: Path, take: Callable[[Any], None]) -> None:
        self._path = path
        self._take = take
        self._under_way: deque[tuple[int, Any]] = deque()
        self._last = 0
        self._waking = False
        path.pipes[self] = None

    @property
    def dropped(self) -> bool:
        """Whether nothing arrives any more."""
        return self not in self._path.pipes

    def send(self, message: Any) -> None:
        """Puts a message on the way."""
        if self.dropped:
            return
        search_message(self._path.name, message)
        ready = self._path.timeline.now + self._path.next_delay()
        self._last = max(self._last, ready)
        self._under_way.append((self._last, message))
        self.go_on()

    def go_on(self) -> None:
        """Sees to it that what is under way arrives in time."""
        if self._under_way and not self._waking and not self._path.cut:
            self._waking = True
            wait = max(0, self._under_way[0][0] - self._path.timeline.now)
            self._path.timeline.after(wait, self._arrive)

    def _arrive(self) -> None:
        self._waking = False
        now = self._path.timeline.now
        while self._under_way and self._under_way[0][0] <= now and not self._path.cut:
            self._take(self._under_way.popleft()[1])
        self.go_on()

    def drop(self) -> None:
        """Ends; what is under way is lost."""
        self._under_way.clear()
        self._path.pipes.pop(self, None)
