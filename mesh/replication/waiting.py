"""Waiting for something to come true, with a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

Check = Callable[[], bool]


class Waiting:
    """Those who wait for conditions, each told when its own came true."""

    def __init__(self) -> None:
        self._waiters: dict[asyncio.Future[None], Check] = {}

    def look(self) -> None:
        """Something changed: looks at every condition again."""
        for future, check in list(self._waiters.items()):
            if not future.done() and check():
                future.set_result(None)

    async def until(self, check: Check, seconds: float | None) -> bool:
        """Waits until `check` holds; False if it does not within `seconds` (None: for ever)."""
        if check():
            return True
        if seconds is not None and seconds <= 0:
            return False
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters[future] = check
        try:
            async with asyncio.timeout(seconds):
                await future
        except TimeoutError:
            return check()
        finally:
            del self._waiters[future]
        return True
