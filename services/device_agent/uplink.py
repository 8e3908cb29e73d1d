"""The device's stream to a gateway: always one, to the nearest edge that answers."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
import structlog
from isthmus.devices.v1 import gateway_pb2 as api
from isthmus.devices.v1.gateway_pb2_grpc import DeviceGatewayServiceStub

from mesh.runtime.client import Edges, NoEdge
from services.device_agent.agent import Agent
from services.device_agent.config import Config, Edge

_log = structlog.get_logger("isthmus.uplink")

_CONNECT_S = 1.0
_WELCOME_S = 1.5
_REPORT_S = 0.7
_SILENCE_S = 3.0
_PAUSE_S = (0.1, 0.3)
_BACKOFF_S = (0.3, 1.0)
_RETURN_S = (8.0, 12.0)
_AGE_S = (40 * 60.0, 50 * 60.0)

Stream = grpc.aio.StreamStreamCall[api.ConnectRequest, api.ConnectResponse]


class Refused(Exception):
    """No session came about; the message says why."""


@dataclass(frozen=True)
class _Session:
    place: int
    stream: Stream


class Uplink:
    """Keeps a session with the first of the edges that gives one.

    A session through another region's edge returns to a nearer one when that answers again, and an
    old one is renewed before the mesh ends it: the new session first, then the old one ends.
    """

    def __init__(self, config: Config, agent: Agent, changed: asyncio.Event) -> None:
        """`changed` is set by the agent when there is something to report at once."""
        self._config = config
        self._agent = agent
        self._changed = changed

    async def run(self) -> None:
        """Connects, and connects again, until cancelled."""
        edges = self._config.edges
        while True:
            try:
                async with contextlib.AsyncExitStack() as stack:
                    session = await self._first(stack, range(len(edges)))
                    await self._keep(stack, session)
            except Refused as refusal:
                _log.warning("no gateway; encoding goes on", why=str(refusal))
                await asyncio.sleep(random.uniform(*_BACKOFF_S))  # noqa: S311 - jitter
            else:
                await asyncio.sleep(random.uniform(*_PAUSE_S))  # noqa: S311 - jitter

    async def _keep(self, stack: contextlib.AsyncExitStack, session: _Session) -> None:
        """Serves a session and its successors; returns when one ends by itself."""
        while True:
            serving = asyncio.create_task(self._serve(session))
            stack.push_async_callback(_finish, serving)
            span = _AGE_S if session.place == 0 else _RETURN_S
            successor: _Session | None = None
            while successor is None:
                wait = random.uniform(*span)  # noqa: S311 - jitter
                await asyncio.wait({serving}, timeout=wait)
                if serving.done():
                    return
                nearer = range(max(1, session.place))
                with contextlib.suppress(Refused):
                    successor = await self._first(stack, nearer)
            await _finish(serving)
            session = successor

    async def _first(self, stack: contextlib.AsyncExitStack, places: Sequence[int]) -> _Session:
        failures = []
        for place in places:
            edge = self._config.edges[place]
            attempt = contextlib.AsyncExitStack()
            try:
                stream = await attempt.enter_async_context(self._session(edge))
            except Refused as refusal:
                failures.append(f"{edge.region}: {refusal}")
                continue
            stack.push_async_exit(attempt)
            return _Session(place, stream)
        raise Refused("; ".join(failures))

    @asynccontextmanager
    async def _session(self, edge: Edge) -> AsyncIterator[Stream]:
        """A stream through `edge` that was welcomed; cancelled afterwards. Raises `Refused`."""
        edges = Edges([edge.address], self._config.identity, connect_seconds=_CONNECT_S)
        async with contextlib.AsyncExitStack() as stack:
            try:
                channel = await stack.enter_async_context(edges.connect())
                stream: Stream = DeviceGatewayServiceStub(channel).Connect()
                stack.callback(stream.cancel)
                async with asyncio.timeout(_WELCOME_S):
                    await stream.write(api.ConnectRequest(hello=self._hello()))
                    answer = await stream.read()
            except NoEdge as error:
                raise Refused(str(error)) from None
            except TimeoutError:
                raise Refused(f"no welcome within {_WELCOME_S:g} s") from None
            except grpc.aio.AioRpcError as error:
                raise Refused(f"{error.code().name}: {error.details()}") from None
            except asyncio.InvalidStateError:
                raise Refused("the stream ended at once") from None
            if not isinstance(answer, api.ConnectResponse) or not answer.HasField("welcome"):
                raise Refused("the gateway's first message is no welcome")
            _log.info(
                "connected", gateway=answer.welcome.gateway_region, epoch=answer.welcome.epoch
            )
            yield stream

    def _hello(self) -> api.Hello:
        return api.Hello(
            device_id=self._config.device_id,
            region=self._config.region,
            model=self._config.model,
            capacity=self._config.capacity,
            encodings=self._agent.encodings(),
        )

    async def _serve(self, session: _Session) -> None:
        """Reports and obeys until the stream ends or falls silent."""
        reporting = asyncio.create_task(self._report(session.stream))
        try:
            while True:
                async with asyncio.timeout(_SILENCE_S):
                    message = await session.stream.read()
                if not isinstance(message, api.ConnectResponse):
                    code, details = await session.stream.code(), await session.stream.details()
                    _log.warning("session ended", status=code.name, why=details)
                    return
                match message.WhichOneof("message"):
                    case "run":
                        await self._agent.run(message.run)
                    case "fence":
                        await self._agent.fence(message.fence)
        except TimeoutError:
            _log.warning("session ended", why=f"the gateway was silent for {_SILENCE_S:g} s")
        except grpc.aio.AioRpcError as error:
            _log.warning("session ended", status=error.code().name, why=error.details())
        finally:
            await _finish(reporting)

    async def _report(self, stream: Stream) -> None:
        while True:
            self._changed.clear()
            report = api.Report(
                encodings=self._agent.encodings(), encoder_restarts=self._agent.take_restarts()
            )
            try:
                await stream.write(api.ConnectRequest(report=report))
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                return  # the reader learns why
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), _REPORT_S)


async def _finish(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
