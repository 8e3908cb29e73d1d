"""The methods of isthmus.devices.v1.DeviceGatewayService: sessions, reports and commands."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import structlog
from google.protobuf.timestamp_pb2 import Timestamp
from isthmus.devices.v1 import gateway_pb2 as api
from isthmus.devices.v1.device_pb2 import DUTY_ACTIVE, Device
from isthmus.devices.v1.device_pb2 import Session as StoredSession
from isthmus.devices.v1.gateway_pb2_grpc import DeviceGatewayServiceServicer

from mesh.replication import (
    Batch,
    Group,
    Snapshot,
    Transaction,
    View,
    WatchEvent,
    WriteContext,
    WriteError,
)
from mesh.runtime import (
    Aborted,
    InvalidArgument,
    PermissionDenied,
    Principal,
    RpcError,
    Unavailable,
    call_context,
    caller,
)
from services.devices import domain
from services.devices.desk import Desk
from services.devices.session import Session
from services.following import follow

Context = grpc.aio.ServicerContext[Any, Any]
_log = structlog.get_logger("isthmus.gateway")

SILENT_MS = 2_500
"""A device that reports nothing for so long is gone, whatever its stream looks like."""

STALE_MS = 3_000
"""How long a session that the store holds, and nobody holds here, may wait for its device."""

_PING_S = 0.8
_STORE_PAUSE_S = 0.2
_HELLO_S = 5.0
_STOP_TRIES, _STOP_PAUSE_S = 100, 0.01


class _Superseded(Exception):
    """The store holds a newer session of the device."""


class Gateway(DeviceGatewayServiceServicer):
    """One region's gateway."""

    def __init__(
        self,
        group: Group,
        context: Callable[[], WriteContext],
        now_ms: Callable[[], int],
    ) -> None:
        """`context` is for what the gateway writes by itself."""
        self._group = group
        self._context = context
        self._now_ms = now_ms
        self._sessions: dict[str, Session] = {}
        self._desk = Desk(lambda device_id: group.get(Device, device_id))
        self._stale_since: dict[str, int] = {}
        self._stopping = False
        self._closing: set[asyncio.Task[None]] = set()

    # ---- the stream

    async def Connect(
        self,
        requests: AsyncIterator[api.ConnectRequest],
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> AsyncIterator[api.ConnectResponse]:
        """One device's session."""
        hello = await self._hello(requests)
        session = await self._open(hello)
        reader = asyncio.create_task(self._read(session, requests))
        writer = asyncio.create_task(self._store_reports(session))
        for task in (reader, writer):
            task.add_done_callback(lambda _: session.wake.set())
        try:
            yield api.ConnectResponse(
                welcome=api.Welcome(gateway_region=self._group.region, epoch=session.epoch)
            )
            while True:
                due = self._desk.due(session, self._now_ms())
                for order in due:
                    yield _response(order)
                if not due:
                    yield api.ConnectResponse(ping=api.Ping())
                patience_s = (session.heard_ms + SILENT_MS + 1 - self._now_ms()) / 1000
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(session.wake.wait(), min(_PING_S, patience_s))
                session.wake.clear()
                if session.ending is not None:
                    raise session.ending
                for task in (reader, writer):
                    if task.done():
                        task.result()
                        return
                if self._now_ms() - session.heard_ms > SILENT_MS:
                    raise Aborted("the device reported nothing for 2.5 s", reason="DEVICE_SILENT")
        finally:
            reader.cancel()
            writer.cancel()
            if self._sessions.get(session.device_id) is session:
                del self._sessions[session.device_id]
            # Not here: this task may be cancelled already.
            closing = asyncio.create_task(self._close(session))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    async def _hello(self, requests: AsyncIterator[api.ConnectRequest]) -> api.Hello:
        principal = caller()
        try:
            first = await asyncio.wait_for(anext(requests), _HELLO_S)
        except (TimeoutError, StopAsyncIteration):
            raise InvalidArgument(
                "no message came: the first one is Hello", reason="HELLO_MISSING"
            ) from None
        if first.WhichOneof("message") != "hello":
            raise InvalidArgument("the first message is Hello", reason="HELLO_MISSING")
        if principal.kind != "device" or principal.name != first.hello.device_id:
            raise PermissionDenied(
                f"{principal} may not connect as device {first.hello.device_id!r}: its "
                "certificate names another",
                reason="NOT_THIS_DEVICE",
            )
        if self._stopping:
            raise _stopping()
        self._refuse_deleted(principal)
        return first.hello

    def _refuse_deleted(self, device: Principal) -> None:
        """Who was deleted comes back by enrolling again: its former certificates let nobody in."""
        view = self._group.get_view(Device, device.name)
        if view is None or not view.deleted:
            return
        if device.enrolled_ms is None or device.enrolled_ms <= view.last_change.time_ms:
            raise _deleted()

    async def _open(self, hello: api.Hello) -> Session:
        enrolled_ms = caller().enrolled_ms or 0

        def change(transaction: Transaction) -> Device:
            known = transaction.get(Device, hello.device_id)
            if known is not None and enrolled_ms < known.enrolled_ms:
                raise _enrolled_again()
            device, paths = domain.introduced(known, hello, enrolled_ms)
            before = known.session if known is not None else StoredSession()
            epoch = domain.next_epoch(before, transaction.now_ms)
            device.session.CopyFrom(self._stored(epoch, 0, transaction.now_ms))
            device.encodings.CopyFrom(hello.encodings)
            if known is None:
                transaction.create(device)
            else:
                if known.duty != DUTY_ACTIVE and not known.duty:
                    paths.append("duty")
                transaction.set(device, *paths, "session", "encodings")
            return device

        context = call_context(hello)
        device = await self._group.write(change, context)
        session = Session(hello.device_id, device.session.epoch, context, self._now_ms())
        session.encodings = session.stored = hello.encodings
        older = self._sessions.get(hello.device_id)
        if older is not None and older.epoch > session.epoch:
            raise _newer()
        if older is not None:
            older.end(_newer())
        self._sessions[hello.device_id] = session
        _log.info("device connected", device=session.device_id, epoch=session.epoch)
        return session

    async def _read(self, session: Session, requests: AsyncIterator[api.ConnectRequest]) -> None:
        async for request in requests:
            if request.WhichOneof("message") != "report":
                raise InvalidArgument("Hello comes once, and first", reason="HELLO_REPEATED")
            session.heard(request.report, self._now_ms())

    async def _store_reports(self, session: Session) -> None:
        """Writes what is new at once, and of what comes too fast the latest."""
        while True:
            await session.reported.wait()
            session.reported.clear()
            if session.tells_news(self._now_ms()):
                await self._store(session)
                await asyncio.sleep(_STORE_PAUSE_S)

    async def _store(self, session: Session) -> None:
        encodings, restarts = session.encodings, session.take_restarts()

        def change(transaction: Transaction) -> Device:
            known = transaction.get(Device, session.device_id)
            if known is None or known.session.epoch != session.epoch:
                raise _Superseded
            device = Device(device_id=session.device_id, encodings=encodings)
            transaction.set(device, "encodings")
            if restarts:
                transaction.increment(Device, session.device_id, "encoder_restarts", restarts)
            return device

        try:
            await self._group.write(change, session.context)
        except _Superseded:
            # What the store holds now comes by the watch, which decides whose session it is.
            return
        except WriteError as error:
            # The session is worth more than its record: commands still go out.
            _log.error("report not written", device=session.device_id, error=str(error))
            session.restarts += restarts
            return
        session.stored, session.stored_ms = encodings, self._now_ms()

    async def _close(self, session: Session) -> None:
        """Says in the store that the session ended, unless a newer one is there."""
        _log.info("device disconnected", device=session.device_id, epoch=session.epoch)
        if session.tells_news(self._now_ms()):
            await self._store(session)
        try:
            await self._end_stored(session.device_id, session.epoch, session.context)
        except WriteError as error:
            # The sweep ends it later.
            _log.error("session end not written", device=session.device_id, error=str(error))

    async def _end_stored(self, device_id: str, epoch: int, context: WriteContext) -> None:
        def change(transaction: Transaction) -> Device:
            known = transaction.get(Device, device_id)
            if known is None or known.session.epoch != epoch or known.session.connected_rank:
                raise _Superseded
            device = Device(device_id=device_id)
            device.session.CopyFrom(self._stored(epoch, 1, transaction.now_ms))
            transaction.set(device, "session")
            return device

        with contextlib.suppress(_Superseded):
            await self._group.write(change, context)

    def _stored(self, epoch: int, rank: int, now_ms: int) -> StoredSession:
        changed = Timestamp()
        changed.FromMilliseconds(now_ms)
        return StoredSession(
            epoch=epoch,
            connected_rank=rank,
            gateway_region=self._group.region,
            changed=changed,
        )

    # ---- what others write

    async def watch_channels(self, events: AsyncIterator[WatchEvent]) -> None:
        """Follows the channels; runs until cancelled."""
        async for event in events:
            self._desk.channels_event(event, self._now_ms())
            self._wake_all()

    def _wake_all(self) -> None:
        for session in self._sessions.values():
            session.wake.set()

    async def watch_devices(self) -> None:
        """Follows the own group: sessions elsewhere, successors on air; runs until cancelled."""
        async for event in follow(self._group, Device):
            views: list[View] = []
            if isinstance(event, Snapshot):
                views = list(event.entities)
            elif isinstance(event, Batch):
                views = [change.new for change in event.changes]
            for view in views:
                await self._compare(view)
            if self._desk.hands_over:
                self._wake_all()

    async def _compare(self, view: View) -> None:
        session = self._sessions.get(view.key)
        device = view.message
        if session is None or not isinstance(device, Device):
            return
        if view.deleted:
            session.end(_deleted())
            return
        stored = device.session
        if stored.epoch < session.epoch or (
            stored.epoch == session.epoch and not stored.connected_rank
        ):
            return
        if not stored.connected_rank:
            session.end(_newer())
            return
        # Some other gateway's clock was ahead when it ended its session: ours still lives.
        await self._reassert(session)

    async def _reassert(self, session: Session) -> None:
        def change(transaction: Transaction) -> Device:
            known = transaction.get(Device, session.device_id)
            if known is None or not known.session.connected_rank:
                raise _Superseded
            device = Device(device_id=session.device_id)
            epoch = domain.next_epoch(known.session, transaction.now_ms)
            device.session.CopyFrom(self._stored(epoch, 0, transaction.now_ms))
            transaction.set(device, "session")
            return device

        try:
            device = await self._group.write(change, session.context)
        except _Superseded:
            return
        except WriteError as error:
            session.end(Unavailable(f"session not written: {error}", reason="WRITE_NOT_TAKEN"))
            return
        session.epoch = device.session.epoch

    async def run(self) -> None:
        """Ends sessions that nobody holds; when cancelled, ends all."""
        try:
            while True:
                await asyncio.sleep(0.5)
                try:
                    await self._sweep()
                except WriteError as error:
                    _log.error("stale sessions not ended", error=str(error))
        finally:
            self._stopping = True
            for session in self._sessions.values():
                session.end(_stopping())
            # Streams end by themselves now; one whose device takes nothing is left to the sweep
            # of the next start.
            for _ in range(_STOP_TRIES):
                if not (self._sessions or self._closing):
                    break
                await asyncio.sleep(_STOP_PAUSE_S)

    async def _sweep(self) -> None:
        now = self._now_ms()
        stale = set()
        for device in self._group.list(Device):
            stored = device.session
            if (
                stored.gateway_region == self._group.region
                and stored.epoch
                and not stored.connected_rank
                and device.device_id not in self._sessions
            ):
                stale.add(device.device_id)
                if now - self._stale_since.setdefault(device.device_id, now) >= STALE_MS:
                    await self._end_stored(device.device_id, stored.epoch, self._context())
        for device_id in set(self._stale_since) - stale:
            del self._stale_since[device_id]


def _response(order: domain.Order) -> api.ConnectResponse:
    if isinstance(order, api.Run):
        return api.ConnectResponse(run=order)
    return api.ConnectResponse(fence=order)


def _newer() -> RpcError:
    return Aborted("a newer session of this device took over", reason="NEWER_SESSION")


def _deleted() -> RpcError:
    return PermissionDenied(
        "the device was deleted: to have it back, enrol it again with a new join token",
        reason="DEVICE_DELETED",
    )


def _enrolled_again() -> RpcError:
    return PermissionDenied(
        "the device was enrolled again since this certificate's enrolment: if this one is the "
        "right one, enrol it with a new join token",
        reason="ENROLLED_AGAIN",
    )


def _stopping() -> RpcError:
    return Unavailable(
        "this gateway is stopping: connect to another region's", reason="GATEWAY_STOPPING"
    )
