"""Writes at a rate, and how late each is seen: the same for all contenders."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

RATE = 1000
"""Changes a second."""


async def paced(rate: int, total: int, send: Callable[[int], None]) -> None:
    """Calls `send` with 0, 1, ... at `rate` a second."""
    started = time.monotonic()
    for number in range(total):
        left = started + number / rate - time.monotonic()
        if left > 0:
            await asyncio.sleep(left)
        send(number)


def now() -> str:
    """The time to put into a change: every process of the machine reads the same clock."""
    return f"{time.monotonic_ns():018d}"


def lag(written: str | bytes) -> float:
    """Milliseconds since `now` gave this."""
    return (time.monotonic_ns() - int(written)) / 1e6
