"""Who taps a region's calls, and what each of them gets. Bounded; no I/O but waiting.

A tap holds at most `HELD` calls that its reader has not taken; past its rate, or when the reader is
slow, calls are left out and counted. Nothing here waits for a reader.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable

from isthmus.mesh.v1 import sidecars_pb2, tap_pb2

from mesh.envoy.tapped import wanted
from mesh.xds.fleet import Instance

HELD = 1000
USUAL_RATE, MOST_RATE = 200, 2000
"""Calls a second."""

MOST_TAPS = 8
"""At once, in one region."""

_BATCH = 200


class TooManyTaps(Exception):
    """As many tap as may."""


class Tap:
    """One reader's share. `clock` gives seconds."""

    def __init__(
        self, asked: sidecars_pb2.TapFilter, per_second: int, clock: Callable[[], float]
    ) -> None:
        self.filter = asked
        self.shown = self.left_out = 0
        self._rate = min(per_second or USUAL_RATE, MOST_RATE)
        self._clock = clock
        self._allowed, self._since = float(self._rate), clock()
        self._calls: deque[tap_pb2.TappedCall] = deque()
        self._untold = 0
        self._over = False
        self._arrived = asyncio.Event()

    def offer(self, calls: Iterable[tap_pb2.TappedCall], left_out: int) -> None:
        """Takes what it wants of these; `left_out` were too many for an agent."""
        now = self._clock()
        self._allowed = min(self._rate, self._allowed + (now - self._since) * self._rate)
        self._since = now
        for each in calls:
            if not wanted(each, [self.filter]):
                continue
            if self._allowed < 1 or len(self._calls) >= HELD:
                left_out += 1
            else:
                self._allowed -= 1
                self._calls.append(each if self.filter.payloads else _without_payloads(each))
        self._untold += left_out
        self.left_out += left_out
        if self._calls or self._untold:
            self._arrived.set()

    async def take(self) -> tap_pb2.TapResponse:
        """Waits for calls, or for a number of those that were left out."""
        await self._arrived.wait()
        count = min(_BATCH, len(self._calls))
        answer = tap_pb2.TapResponse(left_out=self._untold)
        answer.calls.extend(self._calls.popleft() for _ in range(count))
        self._untold = 0
        self.shown += count
        if not self._calls and not self._over:
            self._arrived.clear()
        return answer

    def wake(self) -> None:
        """Ends the waiting of `take`, for good."""
        self._over = True
        self._arrived.set()


class Taps:
    """All of a region. `changed` is called when agents should hear of another order."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._taps: list[Tap] = []
        self._orders = 0
        self._feeding: dict[Instance, int] = {}
        self._joined = asyncio.Event()

    @property
    def order(self) -> sidecars_pb2.TapOrder | None:
        """What agents should send now."""
        if not self._taps:
            return None
        return sidecars_pb2.TapOrder(id=self._orders, filters=[tap.filter for tap in self._taps])

    def open(self, tap: Tap) -> None:
        """Begins a tap. Raises `TooManyTaps`."""
        if len(self._taps) >= MOST_TAPS:
            raise TooManyTaps(f"{MOST_TAPS} tap this region already")
        self._taps.append(tap)
        self._orders += 1
        self._changed()

    def close(self, tap: Tap) -> None:
        """Ends a tap."""
        self._taps.remove(tap)
        self._orders += 1
        self._changed()

    async def joined(self, expected: int, within: float) -> int:
        """Waits until that many sidecars obey the present order (seconds); how many do."""
        order = self._orders
        try:
            async with asyncio.timeout(within):
                while self._obeying(order) < expected:
                    self._joined.clear()
                    await self._joined.wait()
        except TimeoutError:
            pass  # whoever comes later is heard as well
        return self._obeying(order)

    def feed(self, instance: Instance, request: tap_pb2.FeedRequest) -> None:
        """Takes what one sidecar's agent sends."""
        if self._feeding.get(instance) != request.id:
            self._feeding[instance] = request.id
            self._joined.set()
        for tap in self._taps:
            tap.offer(request.calls, request.left_out)

    def wake(self) -> None:
        """Ends all waiting: nothing comes any more."""
        for tap in self._taps:
            tap.wake()

    def gone(self, instance: Instance, order: int) -> None:
        """The agent's stream of that order has ended."""
        if self._feeding.get(instance) == order:
            del self._feeding[instance]

    def _obeying(self, order: int) -> int:
        return sum(each >= order for each in self._feeding.values())


def _without_payloads(call: tap_pb2.TappedCall) -> tap_pb2.TappedCall:
    if not (call.requests or call.responses or call.cut):
        return call
    copy = tap_pb2.TappedCall()
    copy.CopyFrom(call)
    for name in ("requests", "responses", "cut"):
        copy.ClearField(name)
    return copy
