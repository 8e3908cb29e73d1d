"""The horizon of a group in one region: below it the journal is cut, and tombstones dropped.

It is the greatest vector that all regions for which history is kept have said that they hold
durably, each on its own link in this life: nobody will ask for what is below. Who comes with less
all the same, from a backup or with an empty disk, starts from a snapshot.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol, TypeVar

from isthmus.mesh.v1 import status_pb2

from mesh.replication.core.clocks import Vector
from mesh.replication.core.horizon import Stability, least
from mesh.replication.core.journal import Journal
from mesh.replication.membership import Membership
from mesh.replication.store import Store

_FORGOTTEN_AT_ONCE = 2000

T = TypeVar("T")


class Run(Protocol):
    """Calls a function in another thread."""

    def __call__(self, function: Callable[[], T], /) -> Awaitable[T]: ...


KEPT_BYTES = 64 << 20
"""How much of the journal is kept that every region has: for one that comes back with less."""


class Horizon:
    """Cuts a group's journal, and measures what is kept for whom."""

    def __init__(
        self,
        journal: Journal,
        store: Store,
        members: Membership,
        keep_bytes: int,
        now_ms: Callable[[], int],
    ) -> None:
        self._journal = journal
        self._store = store
        self._members = members
        self._keep_bytes = keep_bytes
        self._now_ms = now_ms
        self._stability = Stability()

    @property
    def vector(self) -> Vector:
        """What every region holds durably."""
        return least(self._journal.vector, self._members.behind().values())

    def trimmable(self) -> Vector:
        """Up to where the journal may be cut: what a snapshot's taker will ask for stays too."""
        return self._journal.captures.pinned(self.vector, self._now_ms())

    async def tend(self, run: Run, flushed: Vector) -> None:
        """Cuts the journal and drops tombstones, in pieces; says what is kept for whom.

        Raises `StoreError`.

        `run` calls a function in the store's thread; `flushed` is the stored watermark.
        """
        store, journal = self._store, self._journal
        while await run(partial(store.trim, self.trimmable(), self._keep_bytes)):
            pass
        held: dict[str, int] = {}
        for peer, vector in self._members.behind().items():
            held[peer] = await run(partial(store.held, vector))
        self._members.mark(held)
        words = self._members.words()
        if self._stability.look(journal.vector, journal.seen.clocks, words, flushed):
            await self._forget(run)

    async def _forget(self, run: Run) -> None:
        """Drops tombstones of deletes that every region has seen."""
        journal = self._journal
        tombstones = list(journal.integrity.digest.tombstones)
        for first in range(0, len(tombstones), _FORGOTTEN_AT_ONCE):
            piece = tombstones[first : first + _FORGOTTEN_AT_ONCE]
            dropped = journal.forget(piece, self._stability.clocks, self._now_ms())
            if dropped:
                await run(partial(self._store.forget, dropped))

    def snapshot(self) -> status_pb2.SnapshotStatus | None:
        """The snapshot that comes in; None if none does."""
        progress = self._journal.intake.progress
        if progress is None:
            return None
        return status_pb2.SnapshotStatus(
            peer=progress.peer,
            entities_taken=progress.taken,
            entities=progress.total,
            bytes_taken=progress.bytes,
        )
