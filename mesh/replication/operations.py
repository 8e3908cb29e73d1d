"""Requests that are repeated under one id have one effect (AIP-155)."""

from __future__ import annotations

import asyncio

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.message import Message

from mesh.replication.core.clocks import Vector
from mesh.replication.core.receipts import Receipt
from mesh.replication.errors import OperationUnknown, RequestIdReused
from mesh.replication.store import Store
from mesh.replication.store.sqlite import RECEIPTS_KEPT_MS
from mesh.replication.views import WriteContext

_Key = tuple[str, str, str]


class Operations:
    """What is known of requests with an id: in flight here, done in the store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._running: dict[_Key, tuple[bytes, Message, asyncio.Future[Vector]]] = {}

    async def repeated(self, context: WriteContext, now_ms: int) -> Message | None:
        """The result of an earlier request under this id; None if this is the first.

        Waits for one in flight. Raises `RequestIdReused`, `OperationUnknown`, and what the one in
        flight raised.
        """
        if not context.request_id:
            return None
        running = self._running.get(_key(context))
        if running is not None:
            digest, result, done = running
            _check(context, digest)
            await asyncio.shield(done)
            return _copy(result)
        receipt = self._store.receipt(*_key(context))
        if receipt is None or receipt.time_ms < now_ms - RECEIPTS_KEPT_MS:
            return None
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

    def receipt(self, context: WriteContext, result: Message, now_ms: int) -> Receipt | None:
        """What is kept of a request's result; None without an id."""
        if not context.request_id:
            return None
        return Receipt(
            *_key(context),
            context.request_digest,
            result.DESCRIPTOR.full_name,
            result.SerializeToString(deterministic=True),
            now_ms,
        )

    def started(self, context: WriteContext, result: Message, done: asyncio.Future[Vector]) -> None:
        """A request is in flight until `done`."""
        if context.request_id:
            key = _key(context)
            self._running[key] = (context.request_digest, _copy(result), done)
            done.add_done_callback(lambda _: self._running.pop(key, None))


def _key(context: WriteContext) -> _Key:
    return context.actor, context.method, context.request_id


def _copy(message: Message) -> Message:
    copy = type(message)()
    copy.CopyFrom(message)
    return copy


def _check(context: WriteContext, digest: bytes) -> None:
    if digest and digest != context.request_digest:
        raise RequestIdReused(
            f"request id {context.request_id!r} was used for another {context.method or 'request'}:"
            " repeat a request unchanged, or give it a new id"
        )
