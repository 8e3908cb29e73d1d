"""Requests that are repeated under one id have one effect (AIP-155)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from weakref import WeakValueDictionary

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.message import Message

from mesh.replication.claims import Claiming, Done
from mesh.replication.core.clocks import Vector
from mesh.replication.core.grants import Operation
from mesh.replication.core.receipts import KEPT_MS, Receipt
from mesh.replication.errors import OperationUnknown, RequestIdReused, WriteError
from mesh.replication.store import Store
from mesh.replication.views import WriteContext

_log = logging.getLogger("isthmus.replication")

_PAUSE_SECONDS = 0.005


class Operations:
    """What is known of requests with an id: in flight here, done in the store, asked for.

    `left` gives what is left until a context's deadline (seconds), `arrived` waits until a vector
    is here, for so long at most, and says whether it is.
    """

    def __init__(
        self,
        name: str,
        store: Store,
        left: Callable[[WriteContext], float | None],
        arrived: Callable[[Vector, float | None], Awaitable[bool]],
        now_ms: Callable[[], int],
    ) -> None:
        self.doubled = 0
        self._name = name
        self._store = store
        self._left = left
        self._arrived = arrived
        self._now_ms = now_ms
        self._running: dict[Operation, tuple[bytes, Message, asyncio.Future[Vector]]] = {}
        self._asking: WeakValueDictionary[Operation, asyncio.Lock] = WeakValueDictionary()

    async def repeated(self, context: WriteContext, claiming: Claiming) -> Message | None:
        """The result of an earlier request under this id; None if this is the first.

        It is to be begun at once then, before anything is awaited. Waits for one in flight, and
        asks the other regions if one of them may have done it. Raises `RequestIdReused`,
        `OperationUnknown`, and what the one in flight raised.
        """
        if not context.request_id:
            return None
        operation = _operation(context)
        while True:
            running = self._running.get(operation)
            if running is not None:
                digest, result, done = running
                _check(context, digest)
                await asyncio.shield(done)
                return _copy(result)
            receipt = self._kept(operation)
            if receipt is not None and claiming.is_coming(operation):
                await asyncio.sleep(_PAUSE_SECONDS)  # its commit ends: who asks is to see it
                continue
            if receipt is not None:
                return _result(context, receipt)
            if not context.repeated and not claiming.is_fenced(operation):
                return None
            lock = self._asking.setdefault(operation, asyncio.Lock())
            if lock.locked():
                async with lock:
                    continue  # somebody else asked: look again
            async with lock:
                try:
                    await claiming.claim(operation, self._left(context))
                except Done as done_elsewhere:
                    return await self._elsewhere(context, done_elsewhere)
                # Its frame, or another attempt, may have come while the others were asked.
                if operation not in self._running and self._kept(operation) is None:
                    return None

    async def _elsewhere(self, context: WriteContext, done: Done) -> Message:
        _check(context, done.receipt.digest)
        if not await self._arrived(done.vector, self._left(context)):
            raise OperationUnknown(
                f"the request was done in {done.region}, and what it wrote is not here yet: "
                "repeat it under the same id, or ask there",
                regions=[done.region],
            )
        return _result(context, done.receipt)

    async def known(self, operation: Operation) -> Receipt | None:
        """What is kept of an operation that was done here. Waits for one that is in flight."""
        # One that is over may still stand there: to wait for that would never pause.
        while (running := self._running.get(operation)) and not running[2].done():
            try:
                await asyncio.shield(running[2])
            except WriteError:
                pass  # it has no effect
        return self._kept(operation)

    def _kept(self, operation: Operation) -> Receipt | None:
        receipt = self._store.receipt(*operation)
        fresh = receipt is not None and receipt.time_ms >= self._now_ms() - KEPT_MS
        return receipt if fresh else None

    def receipt(self, context: WriteContext, result: Message, now_ms: int) -> Receipt | None:
        """What is kept of a request's result; None without an id."""
        if not context.request_id:
            return None
        return Receipt(
            *_operation(context),
            context.request_digest,
            result.DESCRIPTOR.full_name,
            result.SerializeToString(deterministic=True),
            now_ms,
        )

    def started(self, context: WriteContext, result: Message, done: asyncio.Future[Vector]) -> None:
        """A request is in flight until `done`."""
        if context.request_id:
            operation = _operation(context)
            self._running[operation] = (context.request_digest, _copy(result), done)
            done.add_done_callback(lambda _: self._running.pop(operation, None))

    def met(self, receipts: Iterable[Receipt]) -> None:
        """Operations of which another result was here already: two regions did them."""
        for receipt in receipts:
            self.doubled += 1
            _log.error(
                "group %s: two regions did %s of %s under the request id %r, each for a first "
                "attempt: both took effect",
                self._name,
                receipt.method,
                receipt.actor,
                receipt.request_id,
            )


def _operation(context: WriteContext) -> Operation:
    return context.actor, context.method, context.request_id


def _copy(message: Message) -> Message:
    copy = type(message)()
    copy.CopyFrom(message)
    return copy


def _result(context: WriteContext, receipt: Receipt) -> Message:
    _check(context, receipt.digest)
    if not receipt.type:
        raise OperationUnknown(
            "the request was done in another region, and its result stays there: read what "
            "it wrote, or repeat it in the region that did it"
        )
    try:
        descriptor = descriptor_pool.Default().FindMessageTypeByName(receipt.type)
    except KeyError:
        raise OperationUnknown(
            f"the request was done, and this region's version cannot read its result, a "
            f"{receipt.type}: ask a region of a newer version"
        ) from None
    return message_factory.GetMessageClass(descriptor).FromString(receipt.response)


def _check(context: WriteContext, digest: bytes) -> None:
    if digest and digest != context.request_digest:
        raise RequestIdReused(
            f"request id {context.request_id!r} was used for another {context.method or 'request'}:"
            " repeat a request unchanged, or give it a new id"
        )
