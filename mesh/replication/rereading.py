"""Reading a group's store again, all the time, and writing anew what is not as it was written."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from mesh.replication.committer import Committer
from mesh.replication.core.clocks import Origin
from mesh.replication.core.damage import STORED_FRAME, STORED_STATE, Damage
from mesh.replication.core.digest import BUCKETS
from mesh.replication.core.entities import EntityKey
from mesh.replication.core.journal import Journal
from mesh.replication.errors import StoreError
from mesh.replication.store import Store
from mesh.replication.store.scrubbing import Reached, StoredState

_log = logging.getLogger("isthmus.replication")

READING_SHARE = 0.02
"""Of one processor, and so of the disk's time: what reading may take."""

PASS_SECONDS = 30.0
"""A pass begins at most so often; one over a large store takes longer, by its share."""

_SLICE_SECONDS = 0.02
_NOTHING = "a state is stored of what there is no more"
_RETRY_SECONDS = 5.0

T = TypeVar("T")


class Rereading:
    """The passes over one store. `passes` counts those that are through."""

    def __init__(
        self, journal: Journal, store: Store, committer: Committer, now_ms: Callable[[], int]
    ) -> None:
        self.passes = 0
        self._journal = journal
        self._damages = journal.integrity.damages
        self._committer = committer
        self._now_ms = now_ms
        self._scrub = store.scrub()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="reread")

    async def close(self) -> None:
        """Lets go of the store."""
        await asyncio.to_thread(self._thread.shutdown)
        self._scrub.close()

    async def run(self) -> None:
        """Reads until cancelled."""
        while True:
            begin = time.monotonic()
            try:
                await self._states()
                await self._frames()
                self.passes += 1
            except StoreError as error:
                _log.warning("the store cannot be read again: %s", error)
            while (left := begin + PASS_SECONDS - time.monotonic()) > 0:
                await asyncio.sleep(min(left, _RETRY_SECONDS, PASS_SECONDS / 4))
                await self._mend()

    async def _read(self, function: Callable[[], T]) -> T:
        begin = time.perf_counter()
        found = await asyncio.get_running_loop().run_in_executor(self._thread, function)
        took = time.perf_counter() - begin
        await asyncio.sleep(max(_SLICE_SECONDS, took / READING_SHARE) if self._large else 0)
        return found

    @property
    def _large(self) -> bool:
        """Whether to pause between slices: a small store is through in a few ms."""
        return len(self._journal.committed) > 1000

    # Stored states.

    async def _states(self) -> None:
        first = 0
        while first < BUCKETS:
            end, stored = await self._read(lambda at=first: self._scrub.states(at))  # type: ignore[misc]
            known = {state.entity: state for state in stored}
            here = set(self._journal.integrity.digest.within(first, end))
            for entity in here | known.keys():
                if self._wrong(entity, known.get(entity)) is not None:
                    await self._look_again(entity, known.get(entity))
            first = end

    def _wrong(self, entity: EntityKey, stored: StoredState | None) -> str | None:
        """What is wrong with a stored state; None if nothing is, or if it is stored again soon."""
        if self._damages.wanted(entity) is not None:
            return None  # Its row says so until it is repaired: whoever starts anew must know it.
        if stored is not None and stored.fingerprint is None:
            if self._committer.unstored(entity) and self._repaired(entity):
                return None  # That was this row, and it is stored again soon.
            return "its stored state is not what its checksum says"
        if entity not in self._journal.committed:
            return None if stored is None else _NOTHING
        if self._committer.unstored(entity):
            return None
        if stored is None:
            return "its stored state is missing"
        digest = self._journal.integrity.digest
        digest.part(entity)  # hashed by now
        if stored.fingerprint != digest.kept(entity):
            return "its stored state is not the one that was stored last"
        return None

    def _repaired(self, entity: EntityKey) -> bool:
        return any(damage.entity == entity for damage in self._damages.mended)

    async def _look_again(self, entity: EntityKey, stored: StoredState | None) -> None:
        """It may have been stored since it was read; only what still is wrong is damage."""
        if stored is None or stored.fingerprint is not None:
            if self._committer.unstored(entity):
                return
            stored = await self._read(lambda: self._scrub.state(entity))
        detail = self._wrong(entity, stored)
        if detail is None:
            return
        # Another region's word is not needed: what is in memory is right, or is repaired itself.
        if detail != _NOTHING:
            self._damages.add(STORED_STATE, entity, self._now_ms(), detail, from_peers=False)
        if stored is not None:
            rows = [stored.row]
            await self._committer.on_thread(lambda: self._scrub.drop_states(rows))
        if entity in self._journal.committed:
            self._committer.store_again(entity)

    # Frames.

    async def _frames(self) -> None:
        vector = dict(self._journal.vector)
        for place, at in await self._read(lambda: self._scrub.strays(vector)):
            detail = "it is stored as another frame"
            self._damages.add(STORED_FRAME, place, self._now_ms(), detail, from_peers=False)
            await self._committer.on_thread(lambda at=at: self._scrub.mend_columns(at))  # type: ignore[misc]
        for origin in list(self._journal.vector):
            await self._origin(origin)
        await self._mend()

    async def _origin(self, origin: Origin) -> None:
        head = self._journal.chain_end(origin)
        reached = Reached()
        while reached.sequence < head[0]:
            reached, damaged = await self._read(
                lambda at=reached: self._scrub.frames(origin, at, head)  # type: ignore[misc]
            )
            for first in damaged:
                detail = "it does not follow from the one before it"
                self._damages.add(STORED_FRAME, (origin, first), self._now_ms(), detail)

    # Repairs.

    async def _mend(self) -> None:
        try:
            for damage in self._damages.open(from_peers=True):
                await self._mend_frame(damage)
            for damage in self._damages.open(from_peers=False):
                await self._mended(damage)
        except StoreError as error:
            _log.warning("the store cannot be mended: %s", error)

    async def _mend_frame(self, damage: Damage) -> None:
        if damage.frame is None:
            return
        head = self._journal.chain_end(damage.frame[0])
        for frame in list(damage.frames.values()):
            if await self._committer.on_thread(lambda f=frame: self._scrub.mend_frame(f, head)):  # type: ignore[misc]
                self._damages.mend(damage, self._now_ms())
                return
        damage.frames.clear()

    async def _mended(self, damage: Damage) -> None:
        """Whether what was written again is there."""
        if damage.entity is None:
            self._damages.mend(damage, self._now_ms())
            return
        entity = damage.entity
        if not self._committer.unstored(entity):
            stored = await self._read(lambda: self._scrub.state(entity))
            if self._wrong(entity, stored) is None:
                self._damages.mend(damage, self._now_ms())
