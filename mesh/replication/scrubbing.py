"""Keeps a group's state proven: hashes it again, compares it with the peers, and repairs it.

All of it in slices that leave the event loop free, and within a share of one processor.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from isthmus.replication.v1 import digest_pb2

from mesh.replication.committer import Committer
from mesh.replication.core.budget import Budget
from mesh.replication.core.journal import Journal
from mesh.replication.core.repair import repair
from mesh.replication.presence import Presence
from mesh.replication.rereading import Rereading
from mesh.replication.store import Store

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
    log: Store
    presence: Presence

    def now_ms(self) -> int:
        """The wall clock in milliseconds."""

    def compare(self) -> None:
        """Goes on comparing with the peers."""


class Scrubber:
    """The background work of one group."""

    def __init__(
        self,
        group: ScrubbedGroup,
        committer: Committer,
        clock: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self._group = group
        self._committer = committer
        self._integrity = group.journal.integrity
        self._integrity.comparing = Budget(COMPARING_SHARE, clock)
        self._integrity.scrubbing = Budget(SCRUBBING_SHARE, clock)
        self._rereading = Rereading(group.journal, group.log, committer, group.now_ms)
        self._tasks: Sequence[asyncio.Task[None]] = ()

    def start(self) -> None:
        """Begins."""
        name = self._group.name
        self._tasks = [
            asyncio.create_task(self._run(), name=f"scrub {name}"),
            asyncio.create_task(self._rereading.run(), name=f"reread {name}"),
        ]

    async def close(self) -> None:
        """Ends."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._rereading.close()

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
            disk_passes=self._rereading.passes,
            corruptions=damages.status(),
        )

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(BUSY_SECONDS if self._integrity.busy else IDLE_SECONDS)
            try:
                self._step()
            except Exception:
                # The group serves on; what cannot be proven shows in the age of its proof.
                _log.exception("group %s: scrubbing", self._group.name)
                await asyncio.sleep(IDLE_SECONDS)

    def _step(self) -> None:
        now_ms = self._group.now_ms()
        self._integrity.hash_changed(now_ms)
        self._integrity.scrub(now_ms)
        self._group.compare()
        for visible in repair(
            self._group.journal, self._group.log, self._group.presence.linked, now_ms
        ):
            self._committer.repaired(visible)
        if self._group.journal.residents.doubted:
            self._committer.wake()
        for what in self._integrity.damages.to_say():
            _log.error("group %s: %s", self._group.name, what)
