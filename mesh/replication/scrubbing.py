"""Keeps a group's state proven: hashes within a budget, reads again what was stored, repairs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from isthmus.replication.v1 import digest_pb2

from mesh.replication.core.budget import Budget
from mesh.replication.core.journal import Journal

_log = logging.getLogger("isthmus.replication")

COMPARING_SHARE = 0.03
SCRUBBING_SHARE = 0.02
"""Of one processor: what comparing with peers may take, and what all other hashing may take."""

BUSY_SECONDS = 0.05
IDLE_SECONDS = 0.25
_AT_ONCE = 100
"""How many changed entities are hashed at once for who asks for the digest."""


class ScrubbedGroup(Protocol):
    """What scrubbing needs of its group."""

    name: str
    journal: Journal

    def now_ms(self) -> int:
        """The wall clock in milliseconds."""

    def compare(self) -> None:
        """Goes on comparing with the peers."""


class Scrubber:
    """The background work of one group."""

    def __init__(
        self, group: ScrubbedGroup, clock: Callable[[], int] = time.perf_counter_ns
    ) -> None:
        self._group = group
        self._integrity = group.journal.integrity
        self._integrity.comparing = Budget(COMPARING_SHARE, clock)
        self._integrity.scrubbing = Budget(SCRUBBING_SHARE, clock)
        self._tasks: Sequence[asyncio.Task[None]] = ()

    def start(self) -> None:
        """Begins."""
        name = self._group.name
        self._tasks = [asyncio.create_task(self._run(), name=f"scrub {name}")]

    async def close(self) -> None:
        """Ends."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def digest(self) -> bytes:
        """The digest of all, 32 bytes; empty while too much of it is behind the state."""
        digest = self._integrity.digest
        return digest.value() if len(digest.stale) <= _AT_ONCE else b""

    def status(self) -> digest_pb2.IntegrityStatus:
        """What was found damaged, and what became of it."""
        damages = self._integrity.damages
        return digest_pb2.IntegrityStatus(
            found=damages.found,
            repaired=damages.repaired,
            memory_passes=self._integrity.passes,
            corruptions=damages.status(),
        )

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(BUSY_SECONDS if self._integrity.busy else IDLE_SECONDS)
            self._step()

    def _step(self) -> None:
        now_ms = self._group.now_ms()
        self._integrity.hash_changed()
        self._integrity.scrub(now_ms)
        self._group.compare()
        for damage in self._integrity.damages.to_say():
            if damage.repaired_ms is None:
                _log.error("group %s: damaged: %s", self._group.name, damage)
            else:
                _log.warning("group %s: repaired: %s", self._group.name, damage)
