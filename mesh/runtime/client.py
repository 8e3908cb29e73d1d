"""How what stands outside the mesh calls it: through an edge, with a certificate of its own.

    edges = Edges(["127.0.0.1:21000", "127.0.0.1:21100"], folder)   # in the order of preference
    reply = await edges.call(lambda channel: Stub(channel).Method(request), repeatable=True)
    async with edges.connect() as channel:                          # for streams
        ...
    await edges.close()

`folder` holds `tls.crt`, `tls.key` and `trust.crt`. They are read for each new connection, so a
rotated certificate is used from the next one on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import grpc

R = TypeVar("R")

# Statuses under which another edge may do better.
_ELSEWHERE = (grpc.StatusCode.UNAVAILABLE,)
_OPTIONS = [
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
    ("grpc.max_send_message_length", 16 * 1024 * 1024),
    ("grpc.enable_retries", 0),
    # A dead edge is noticed within five seconds, with or without a call.
    ("grpc.keepalive_time_ms", 3000),
    ("grpc.keepalive_timeout_ms", 2000),
    ("grpc.http2.max_pings_without_data", 0),
    # A channel that failed is not a reason for the next one to wait.
    ("grpc.use_local_subchannel_pool", 1),
]


class NoEdge(Exception):
    """No edge could be reached; the message says why for each."""


class NoIdentity(Exception):
    """The identity folder does not hold what a connection needs."""


class Edges:
    """A way to the mesh through the first edge that answers."""

    def __init__(
        self, addresses: Sequence[str], identity: Path, *, connect_seconds: float = 2.0
    ) -> None:
        if not addresses:
            raise ValueError("at least one edge is needed")
        self._addresses = tuple(addresses)
        self._identity = identity
        self._connect_seconds = connect_seconds
        self._channels: dict[str, grpc.aio.Channel] = {}

    async def call(
        self, invoke: Callable[[grpc.aio.Channel], Awaitable[R]], *, repeatable: bool
    ) -> R:
        """Makes one call, through the next edge if one cannot be reached.

        A `repeatable` call (one that reads, or carries a request id) also goes to the next edge
        when it failed with UNAVAILABLE; any other was perhaps done, so its error is the answer.
        Raises `NoEdge`, `NoIdentity` or `grpc.aio.AioRpcError`.
        """
        failures: dict[str, str] = {}
        for address in self._addresses:
            channel = await self._ready(address, failures)
            if channel is None:
                continue
            try:
                return await invoke(channel)
            except grpc.aio.AioRpcError as error:
                if not repeatable or error.code() not in _ELSEWHERE:
                    raise
                failures[address] = error.details() or error.code().name
                await self._drop(address)
        raise _no_edge(failures)

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[grpc.aio.Channel]:
        """A new channel to the first edge that answers; closed afterwards. For long streams."""
        failures: dict[str, str] = {}
        for address in self._addresses:
            channel = await self._dial(address, failures)
            if channel is None:
                continue
            try:
                yield channel
            finally:
                await channel.close()
            return
        raise _no_edge(failures)

    async def close(self) -> None:
        """Closes what is open."""
        for address in list(self._channels):
            await self._drop(address)

    async def _ready(self, address: str, failures: dict[str, str]) -> grpc.aio.Channel | None:
        kept = self._channels.get(address)
        if kept is not None and kept.get_state() == grpc.ChannelConnectivity.READY:
            return kept
        await self._drop(address)
        channel = await self._dial(address, failures)
        if channel is not None:
            self._channels[address] = channel
        return channel

    async def _dial(self, address: str, failures: dict[str, str]) -> grpc.aio.Channel | None:
        channel = grpc.aio.secure_channel(address, self._credentials(), options=_OPTIONS)
        try:
            async with asyncio.timeout(self._connect_seconds):
                failure = await _connected(channel)
        except TimeoutError:
            failure = f"no connection within {self._connect_seconds:g} s"
        except BaseException:
            await channel.close()
            raise
        if failure is None:
            return channel
        failures[address] = failure
        await channel.close()
        return None

    async def _drop(self, address: str) -> None:
        channel = self._channels.pop(address, None)
        if channel is not None:
            await channel.close()

    def _credentials(self) -> grpc.ChannelCredentials:
        try:
            return grpc.ssl_channel_credentials(
                root_certificates=(self._identity / "trust.crt").read_bytes(),
                private_key=(self._identity / "tls.key").read_bytes(),
                certificate_chain=(self._identity / "tls.crt").read_bytes(),
            )
        except OSError as error:
            raise NoIdentity(
                f"{error.filename} cannot be read ({error.strerror}):"
                " is the mesh up, and is this its folder?"
            ) from None


async def _connected(channel: grpc.aio.Channel) -> str | None:
    """Waits for the first attempt to connect; returns why it failed, None if it did not.

    A dead edge mostly refuses at once, and the next one is not kept waiting for it.
    """
    state = channel.get_state(try_to_connect=True)
    while state is not grpc.ChannelConnectivity.READY:
        if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
            return await _why(channel)
        await channel.wait_for_state_change(state)
        state = channel.get_state(try_to_connect=True)
    return None


async def _why(channel: grpc.aio.Channel) -> str | None:
    """What a failing channel says about itself: only a call is told. None if it works by now."""
    probe: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
        "/grpc.health.v1.Health/Check"
    )
    try:
        await probe(b"")
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.UNAVAILABLE:
            return error.details() or error.code().name
    return None


def _no_edge(failures: dict[str, str]) -> NoEdge:
    return NoEdge(
        "no edge could be reached: " + "; ".join(f"{a}: {w}" for a, w in failures.items())
    )
