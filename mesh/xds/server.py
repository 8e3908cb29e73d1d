"""The ADS server: both protocols over grpc.aio, for clients that are who they say.

A client's node id is never read. Who it is, is what `admit` makes of its certificate.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol

import grpc

from mesh.identity.errors import SpiffeError
from mesh.identity.spiffe import WorkloadId, parse
from mesh.xds import wire
from mesh.xds.delta import DeltaStream
from mesh.xds.fleet import Fleet, Instance, NoSuchInstance, Outcome, S, Session
from mesh.xds.resources import Snapshot
from mesh.xds.stream import Response, TooMuch
from mesh.xds.whole import WholeStream

SERVER_OPTIONS: Sequence[tuple[str, int]] = (
    # Sidecars ping every second, gRPC's own clients when they like.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 500),
    ("grpc.http2.max_ping_strikes", 0),
    # A client that is gone without a word is noticed.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # A certificate lasts an hour; no connection outlives the one it began with by more than half
    # of that. Who comes back gets nothing twice.
    ("grpc.max_connection_age_ms", 30 * 60 * 1000),
    ("grpc.max_connection_age_grace_ms", 1000),
)
"""What the grpc.aio server needs that this is added to."""


class NotAdmitted(Exception):
    """The peer is no sidecar of this mesh."""


@dataclass(frozen=True)
class Peer:
    """What is known of a client: the SPIFFE ID of its certificate, or empty, and its metadata."""

    spiffe_id: str
    metadata: Mapping[str, str]


Admission = Callable[[Peer], Instance]
"""Whose resources a peer gets. Raises `NotAdmitted`."""


def by_certificate(trust_domain: str) -> Admission:
    """Workloads of the trust domain, by the certificate that the connection was verified with."""

    def admit(peer: Peer) -> Instance:
        try:
            found = parse(peer.spiffe_id)
        except SpiffeError:
            found = None
        if not isinstance(found, WorkloadId) or found.trust_domain != trust_domain:
            raise NotAdmitted(
                f"{peer.spiffe_id or 'a client without a certificate'} is no workload of "
                f"{trust_domain}: sidecars connect with their own identity"
            )
        return Instance(found.region, found.name)

    return admit


@dataclass
class Traffic:
    """What was sent since the start: responses, the resources in them, bytes before HTTP/2."""

    responses: int = 0
    resources: int = 0
    bytes: int = 0


class _Context(Protocol):
    """What is used of grpc.aio's context of a stream."""

    def auth_context(self) -> Mapping[str, Sequence[bytes]]: ...
    def invocation_metadata(self) -> Any: ...
    async def read(self) -> Any: ...
    async def write(self, message: bytes) -> None: ...
    async def abort(self, code: grpc.StatusCode, details: str = "") -> Any: ...


class AdsServer:
    """Serves a fleet; all of it happens in one event loop."""

    def __init__(
        self,
        fleet: Fleet,
        admit: Admission,
        *,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.fleet = fleet
        self.traffic = Traffic()
        self._admit = admit
        self._now_ms = now_ms
        self._streams: set[asyncio.Task[Any]] = set()

    def add_to(self, server: grpc.aio.Server) -> None:
        """Adds the service to a server that was made with `SERVER_OPTIONS`."""
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            wire.DELTA_METHOD: grpc.stream_stream_rpc_method_handler(self._delta),
            wire.WHOLE_METHOD: grpc.stream_stream_rpc_method_handler(self._whole),
        }
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(wire.SERVICE, handlers),)
        )

    def close(self) -> None:
        """Ends all streams; clients come back, to another process."""
        for stream in self._streams:
            stream.cancel()

    async def acknowledged(
        self,
        revision: str,
        instances: Collection[Instance] | None = None,
        *,
        within: float,
    ) -> Outcome:
        """Waits until all of these have acknowledged the revision, or one has rejected it.

        `instances` None is all that are connected now; `within` is in seconds. What was reached by
        then is the answer, never an error.
        """
        done = asyncio.Event()
        watch = self.fleet.watch(revision, instances, done.set)
        try:
            async with asyncio.timeout(within):
                await done.wait()
        except TimeoutError:
            pass  # the outcome says who is waited for
        finally:
            self.fleet.unwatch(watch)
        return watch.outcome

    async def _delta(self, _requests: Any, context: _Context) -> None:
        await self._serve(context, DeltaStream, wire.delta_request, wire.delta_response)

    async def _whole(self, _requests: Any, context: _Context) -> None:
        await self._serve(context, WholeStream, wire.whole_request, wire.whole_response)

    async def _serve(
        self,
        context: _Context,
        stream: Callable[[Snapshot], S],
        decode: Callable[[bytes], Any],
        encode: Callable[[Response], bytes],
    ) -> None:
        writer: _Writer[S] = _Writer(context, encode, self.traffic)
        try:
            instance = self._admit(_peer(context))
            session = self.fleet.connect(instance, stream, self._now_ms(), writer.wake)
        except (NotAdmitted, NoSuchInstance) as error:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(error))
            return
        writer.session = session
        task = asyncio.current_task()
        if task is not None:
            self._streams.add(task)
            task.add_done_callback(self._streams.discard)
        try:
            while (data := await context.read()) is not grpc.aio.EOF:
                session.stream.receive(decode(data), self._now_ms())
                self.fleet.heard(session, self._now_ms())
                writer.wake()
        except (wire.Malformed, TooMuch) as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        finally:
            self.fleet.disconnect(session)
            writer.close()


class _Writer(Generic[S]):
    """Writes what the stream has to say, one response after the other, while it has any."""

    session: Session[S]

    def __init__(
        self, context: _Context, encode: Callable[[Response], bytes], traffic: Traffic
    ) -> None:
        self._context = context
        self._encode = encode
        self._traffic = traffic
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def wake(self) -> None:
        if self._closed or (self._task is not None and not self._task.done()):
            return  # its loop asks once more before it ends
        response = self.session.stream.poll()
        if response is not None:
            self._task = asyncio.create_task(self._write(response))

    def close(self) -> None:
        self._closed = True
        if self._task is not None:
            self._task.cancel()

    async def _write(self, response: Response | None) -> None:
        try:
            while response is not None:
                data = self._encode(response)
                self._traffic.responses += 1
                self._traffic.resources += len(response.resources)
                self._traffic.bytes += len(data)
                await self._context.write(data)
                response = self.session.stream.poll()
        except (grpc.aio.UsageError, grpc.aio.BaseError, asyncio.InvalidStateError):
            self._closed = True  # the stream has ended, which its reader hears too


def _peer(context: _Context) -> Peer:
    # gRPC gives this only if the certificate has exactly one SPIFFE ID.
    ids = context.auth_context().get("peer_spiffe_id", ())
    metadata = {
        key: value for key, value in context.invocation_metadata() if isinstance(value, str)
    }
    return Peer(ids[0].decode() if len(ids) == 1 else "", metadata)
