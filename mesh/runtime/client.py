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
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import grpc

from mesh.runtime.home_calls import HomeCalls
from mesh.runtime.session_tokens import SessionTokens

R = TypeVar("R")

# Statuses under which another edge may do better.
_ELSEWHERE = (grpc.StatusCode.UNAVAILABLE,)
_OPTIONS = [
    # As in `mesh.runtime.host`, which operators' tools do without.
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
    ("grpc.max_send_message_length", 4 * 1024 * 1024),
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


@dataclass
class _Kept:
    """A channel that calls share. One that is retired ends with the last of them."""

    channel: grpc.aio.Channel
    calls: int = 0
    retired: bool = False


class Edges:
    """A way to the mesh through the first edge that answers. Calls may be made at once.

    One object is one session, unless it shares its `session` with others: what calls have written
    and read, later ones see, through whichever edge, where the contract of their method says
    CONSISTENCY_SESSION.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        identity: Path,
        *,
        connect_seconds: float = 2.0,
        session: SessionTokens | None = None,
    ) -> None:
        if not addresses:
            raise ValueError("at least one edge is needed")
        self._addresses = tuple(addresses)
        self._identity = identity
        self._connect_seconds = connect_seconds
        self._kept: dict[str, _Kept] = {}
        self._session = session or SessionTokens()
        self._dialling: dict[str, asyncio.Task[_Kept | str]] = {}

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
            kept = await self._ready(address)
            if isinstance(kept, str):
                failures[address] = kept
                continue
            kept.calls += 1
            try:
                return await invoke(kept.channel)
            except grpc.aio.AioRpcError as error:
                if not repeatable or error.code() not in _ELSEWHERE:
                    raise
                failures[address] = error.details() or error.code().name
                self._retire(address, kept)
            finally:
                kept.calls -= 1
                await self._end_if_unused(kept)
        raise _no_edge(failures)

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[grpc.aio.Channel]:
        """A new channel to the first edge that answers; closed afterwards. For long streams."""
        failures: dict[str, str] = {}
        for address in self._addresses:
            channel = await self._dial(address)
            if isinstance(channel, str):
                failures[address] = channel
                continue
            try:
                yield channel
            finally:
                await channel.close()
            return
        raise _no_edge(failures)

    async def close(self) -> None:
        """Closes what is open; calls that are under way are cancelled."""
        dialling = list(self._dialling.values())
        for dial in dialling:
            dial.cancel()
        await asyncio.gather(*dialling, return_exceptions=True)
        for address, kept in list(self._kept.items()):
            self._retire(address, kept)
            await kept.channel.close()

    async def _ready(self, address: str) -> _Kept | str:
        """A channel to an edge, or why there is none."""
        while True:
            kept = self._kept.get(address)
            if kept is not None:
                if kept.channel.get_state() == grpc.ChannelConnectivity.READY:
                    return kept
                self._retire(address, kept)
            # Calls at once wait for one attempt, not one after the other for one each.
            dial = self._dialling.get(address)
            if dial is None:
                dial = self._dialling[address] = asyncio.create_task(self._keep(address))
                dial.add_done_callback(lambda _: self._dialling.pop(address))
            if kept is not None:
                await self._end_if_unused(kept)
            found = await asyncio.shield(dial)
            if isinstance(found, str) or not found.retired:
                return found

    async def _keep(self, address: str) -> _Kept | str:
        channel = await self._dial(address)
        if isinstance(channel, str):
            return channel
        self._kept[address] = _Kept(channel)
        return self._kept[address]

    def _retire(self, address: str, kept: _Kept) -> None:
        """No new call takes this channel."""
        kept.retired = True
        if self._kept.get(address) is kept:
            del self._kept[address]

    @staticmethod
    async def _end_if_unused(kept: _Kept) -> None:
        # To close it under another call would cancel that call, and its caller with it.
        if kept.retired and not kept.calls:
            await kept.channel.close()

    async def _dial(self, address: str) -> grpc.aio.Channel | str:
        """A new channel that is connected, or why it is not."""
        channel = grpc.aio.secure_channel(
            address,
            self._credentials(),
            options=_OPTIONS,
            interceptors=[HomeCalls(), self._session],
        )
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
        await channel.close()
        return _plainly(failure, self._identity / "trust.crt")

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


def _plainly(failure: str, trust: Path) -> str:
    if "CERTIFICATE_VERIFY_FAILED" not in failure:
        return failure
    return (
        f"its certificate is of another root than {trust}: this identity is of another mesh, or "
        "of before the mesh got a new root. Remove its folder and enrol again"
    )


def _no_edge(failures: dict[str, str]) -> NoEdge:
    return NoEdge(
        "no edge could be reached: " + "; ".join(f"{a}: {w}" for a, w in failures.items())
    )
