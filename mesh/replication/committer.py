"""Drives a journal and its store: one thread, one commit at a time, none without need.

The next commit starts when the one before it is done, with all that came meanwhile; no timer makes
a lone write wait.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from mesh.replication.core.batches import Batch, Visible, Write
from mesh.replication.core.clocks import Vector
from mesh.replication.core.entities import EntityKey
from mesh.replication.core.errors import NotAMember
from mesh.replication.core.journal import Journal
from mesh.replication.errors import GroupClosed, OriginChanged, StoreError, WriteNotStored
from mesh.replication.horizon import Run
from mesh.replication.store import Store
from mesh.replication.tail import Tail

_log = logging.getLogger("isthmus.replication")

T = TypeVar("T")

FLUSH_SECONDS = 5.0
_FLUSH_PIECE = 25
"""How many states are stored at once: commits wait for no more, about 1 ms."""

_FLUSH_SHARE = 0.1
"""How much of the time may go into storing states; more of the journal is replayed instead."""

RETRY_SECONDS = 1.0


class Committer:
    """Commits, resolves writes, flushes state.

    `unflushed` are the entities whose stored state is behind already; `on_visible` is called after
    each commit, `tend` after each flush.
    """

    def __init__(
        self,
        name: str,
        journal: Journal,
        store: Store,
        tail: Tail,
        unflushed: Iterable[EntityKey],
        on_visible: Callable[[Visible], None],
        tend: Callable[[Run, Vector], Awaitable[None]],
    ) -> None:
        self._name = name
        self._journal = journal
        self._store = store
        self._tail = tail
        self._on_visible = on_visible
        self._tend = tend
        # A snapshot is stored with its states: none from before it may be stored after it.
        self._storing_states = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"commit-{name}")
        self._wake = asyncio.Event()
        self._waiters: dict[int, asyncio.Future[Vector]] = {}
        self._unflushed = set(unflushed)
        self._watermark: Vector = {}
        self._flushing: set[EntityKey] = set()
        self._closing = False
        self._failure: BaseException | None = None
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Starts to commit and to flush."""
        self._tasks = [
            asyncio.create_task(self._run(), name=f"commit {self._name}"),
            asyncio.create_task(self._flush_often(), name=f"flush {self._name}"),
        ]

    def wake(self) -> None:
        """Something may be there to commit."""
        self._wake.set()

    def check_open(self) -> None:
        """Raises `GroupClosed` if no write can be taken any more."""
        if self._closing:
            raise GroupClosed(f"group {self._name} is closing")
        if self._failure is not None:
            raise GroupClosed(
                f"group {self._name} stopped committing: restart the process"
            ) from self._failure

    def submit(self, write: Write) -> asyncio.Future[Vector]:
        """Queues a write. Once it is durable the future has its position, or else its `WriteError`.

        The position is that of the end of its frame.
        """
        future: asyncio.Future[Vector] = asyncio.get_running_loop().create_future()
        self._waiters[id(write)] = future
        self._journal.submit(write)
        self._wake.set()
        return future

    def on_thread(self, function: Callable[[], T]) -> asyncio.Future[T]:
        """Calls a function on the thread that writes the store, between two commits."""
        return asyncio.get_running_loop().run_in_executor(self._thread, function)

    def refuse(self, writes: Sequence[Write], error: Exception | None = None) -> None:
        """Tells writers that their writes are lost."""
        for write in writes:
            future = self._waiters.pop(id(write), None)
            if future is not None and not future.done():
                future.set_exception(
                    error or OriginChanged("the region took a new incarnation: try again")
                )
                future.exception()  # a writer who left does not fetch it

    async def _run(self) -> None:
        try:
            while not self._closing:
                await self._wake.wait()
                self._wake.clear()
                while (batch := self._journal.next_batch()) is not None:
                    if batch.staging is None or batch.staging.install is None:
                        stored = await self._commit(batch)
                    else:
                        async with self._storing_states:
                            stored = await self._commit(batch)
                    if not stored:
                        break
        except Exception as error:
            _log.critical("group %s stopped committing", self._name, exc_info=True)
            self._failure = error
            self._fail_all(GroupClosed(f"group {self._name} stopped committing: {error}"))

    async def _commit(self, batch: Batch) -> bool:
        loop = asyncio.get_running_loop()
        try:
            stored = await loop.run_in_executor(self._thread, self._store.commit, batch)
        except StoreError as error:
            _log.error("group %s could not store: %s", self._name, error)
            refused = WriteNotStored(str(error))
            refused.__cause__ = error
            self.refuse(self._journal.failed(batch), refused)
            # Frames wait in the journal; a new write tries at once.
            loop.call_later(RETRY_SECONDS, self._wake.set)
            return False
        self._tail.append(stored)
        visible = self._journal.stored(batch)
        self._unflushed.update(visible.after, visible.idle)
        position = {batch.local.origin: batch.local.last} if batch.local else {}
        for write in batch.writes:
            future = self._waiters.pop(id(write), None)
            if future is not None and not future.done():
                future.set_result(position)
        if visible.lost:
            self.refuse(visible.lost, NotAMember("the region leaves its group: write in another"))
        self._on_visible(visible)
        return True

    def _fail_all(self, error: Exception) -> None:
        waiters, self._waiters = self._waiters, {}
        for future in waiters.values():
            if not future.done():
                future.set_exception(error)
                future.exception()  # as above

    async def _flush_often(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            await self.flush(_FLUSH_SHARE)
            await self._tend_journal()

    async def flush(self, share: float = 1.0) -> None:
        """Brings the stored state up to what is committed now. A failure is logged, not raised.

        Commits go in between its pieces; `share` is how much of the time it may take up.
        """
        entities, self._flushing, self._unflushed = list(self._unflushed), self._unflushed, set()
        watermark = dict(self._journal.vector)
        loop = asyncio.get_running_loop()
        held_back: set[EntityKey] = set()
        try:
            while entities or not (held_back or watermark == self._watermark):
                piece = entities[-_FLUSH_PIECE:]
                began = loop.time()
                async with self._storing_states:
                    committed, integrity = self._journal.committed, self._journal.integrity
                    held_back.update(entity for entity in piece if not integrity.storable(entity))
                    # A tombstone may have been dropped meanwhile.
                    left = (entity for entity in piece if entity in committed)
                    states = {e: committed[e] for e in left if e not in held_back}
                    whole = len(piece) == len(entities) and not held_back
                    done = watermark if whole else None
                    # One that is not what was hashed would get a checksum that says it is right.
                    refused = await loop.run_in_executor(
                        self._thread, self._store.flush, states, done, integrity.kept(states)
                    )
                    if refused:
                        held_back |= refused
                        done = None
                del entities[-_FLUSH_PIECE:]
                self._watermark = done or self._watermark
                if entities and share < 1:
                    await asyncio.sleep((loop.time() - began) * (1 / share - 1))
        except StoreError as error:
            _log.warning("group %s could not flush its state: %s", self._name, error)
        finally:
            # Else the next watermark would promise what is not stored.
            self._unflushed.update(entities)
            self._unflushed.update(held_back)
            self._flushing = set()

    # For repairs.

    def unstored(self, entity: EntityKey) -> bool:
        """Whether the stored state of an entity is behind, and will be stored again."""
        return entity in self._unflushed or entity in self._flushing

    def store_again(self, entity: EntityKey) -> None:
        """The stored state of an entity is not what it should be."""
        self._unflushed.add(entity)

    def repaired(self, visible: Visible) -> None:
        """States were replaced: stores and shows them."""
        self._unflushed |= visible.after.keys() & self._journal.committed.keys()
        self._on_visible(visible)

    async def _tend_journal(self) -> None:
        """A failure is logged, not raised."""
        try:
            await self._tend(self.on_thread, self._watermark)
        except StoreError as error:
            _log.warning("group %s could not cut its journal: %s", self._name, error)

    async def close(self) -> None:
        """Commits what is queued, flushes, and lets go of the store."""
        self._closing = True
        self._wake.set()
        if self._tasks:
            await asyncio.gather(self._tasks[0])
            self._tasks[1].cancel()
            await asyncio.gather(self._tasks[1], return_exceptions=True)
        self._fail_all(GroupClosed(f"group {self._name} is closed"))
        await self.flush()
        await self.on_thread(self._store.close)
        self._thread.shutdown()
