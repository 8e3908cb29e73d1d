"""Writing to a group: one change at a time, acknowledged at the durability that it asks for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from google.protobuf.message import Message

from mesh.contracts.model import Durability
from mesh.replication.claims import Claiming
from mesh.replication.committer import Committer
from mesh.replication.core.clocks import Vector, milliseconds
from mesh.replication.core.durable import Durable
from mesh.replication.core.journal import Journal
from mesh.replication.errors import DurabilityPending, RightsShort
from mesh.replication.operations import Operations
from mesh.replication.presence import Presence
from mesh.replication.rights import Rights
from mesh.replication.schema import GroupSchema
from mesh.replication.transaction import Transaction
from mesh.replication.views import WriteContext
from mesh.replication.waiting import Waiting

M = TypeVar("M", bound=Message)


class Writer:
    """Runs the changes of a group's writers.

    `left` gives what is left until a context's deadline, in seconds.
    """

    def __init__(
        self,
        journal: Journal,
        schema: GroupSchema,
        committer: Committer,
        operations: Operations,
        claiming: Claiming,
        presence: Presence,
        durable: Durable,
        rights: Rights,
        left: Callable[[WriteContext], float | None],
        now_ms: Callable[[], int],
    ) -> None:
        self.accepted = 0
        """Writes that were acknowledged since the start."""
        self._journal = journal
        self._schema = schema
        self._committer = committer
        self._operations = operations
        self._claiming = claiming
        self._presence = presence
        self._durable = durable
        self._rights = rights
        self._left = left
        self._now_ms = now_ms
        self._waiting = Waiting()

    async def write(self, change: Callable[[Transaction], M], context: WriteContext) -> M:
        """See `Group.write`."""
        self._committer.check_open()
        now_ms = self._now_ms()
        repeated = await self._operations.repeated(context, self._claiming)
        if repeated is not None:
            # Where it went is not kept: what is here by now includes it.
            await self._reach_durability(dict(self._journal.vector), context)
            return repeated  # type: ignore[return-value] # what the first call returned
        self._committer.check_open()
        self._presence.check_clock(now_ms, milliseconds(self._journal.clock.last))
        self._journal.begin_write(now_ms)
        transaction = Transaction(self._journal, self._schema, context, now_ms)
        try:
            result = change(transaction)
        except RightsShort as short:
            self._rights.ask(short, self._presence.all_reachable, context)
            raise
        receipt = self._operations.receipt(context, result, now_ms)
        write = transaction.finish(receipt)
        idle = not write.count and not write.residents and receipt is None
        if idle and self._journal.quiet:
            # It found what it wanted: that is to be as durable as if it had written it.
            await self._reach_durability(dict(self._journal.vector), context)
            return result
        done = self._committer.submit(write)
        self._operations.started(context, result, done)
        # Who repeats the request waits for it too, whatever becomes of this call.
        position = await (done if receipt is None else asyncio.shield(done))
        self.accepted += 1
        await self._reach_durability(position, context)
        return result

    def submit(
        self, change: Callable[[Transaction], None], context: WriteContext
    ) -> asyncio.Future[Vector]:
        """Queues a write of the region's own; the result is there once it is durable here."""
        transaction = Transaction(self._journal, self._schema, context, self._now_ms())
        change(transaction)
        return self._committer.submit(transaction.finish(None))

    def acknowledged(self) -> None:
        """Some region has more on disk, or more or fewer regions count."""
        self._waiting.look()

    async def _reach_durability(self, position: Vector, context: WriteContext) -> None:
        if context.durability is Durability.REGION:
            return
        needed = context.durability.of(self._durable.regions)
        if not await self._waiting.until(
            lambda: len(self._durable.holders(position)) >= needed, self._left(context)
        ):
            raise DurabilityPending(self._durable.holders(position), needed)
