"""The network side of links: one stream from each peer, kept up.

Streams are renewed make-before-break: the new one has greeted before the old one ends, and frames
that come twice count once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import grpc
from isthmus.replication.v1 import link_pb2, link_pb2_grpc

from mesh.contracts.model import Contract
from mesh.replication import lagging
from mesh.replication.core.batches import Write
from mesh.replication.core.clocks import Vector
from mesh.replication.core.errors import FormatUnknown, LinkFault
from mesh.replication.core.journal import Journal
from mesh.replication.core.receiving import PeerView, Receiver, bereft
from mesh.replication.core.relayed import Relayed
from mesh.replication.lagging import duration
from mesh.replication.presence import Presence

_log = logging.getLogger("isthmus.replication")

Dial = Callable[[str], grpc.aio.Channel]
"""Gives the channel on which a peer region's LinkService is called; the link closes it."""

FollowCall = grpc.aio.StreamStreamCall[link_pb2.FollowRequest, link_pb2.FollowResponse]

LINK_SERVICE = "isthmus.replication.v1.LinkService"

SILENCE_SECONDS = 5.0
"""A stream on which nothing comes for so long, heartbeats included, is given up."""

_BACKOFF_SECONDS = (0.1, 2.0)
_FAULT_SECONDS = 5.0


def link_max_age(contract: Contract) -> float | None:
    """For how many seconds a stream may last, by the contract; None if it does not say."""
    service = contract.services.get(LINK_SERVICE)
    for method in service.methods if service else ():
        if method.name == "Follow":
            return method.stream_max_age
    return None


class LinkedGroup(Protocol):
    """What links need of their group."""

    name: str
    region: str
    peers: tuple[str, ...]
    journal: Journal
    presence: Presence
    link_max_age: float | None

    def now_ms(self) -> int:
        """The wall clock in milliseconds."""

    def frames_came(self) -> None:
        """Frames, or a part of a snapshot, wait to be committed."""

    def refuse(self, writes: Sequence[Write]) -> None:
        """Tells writers that their writes are lost."""


class Links:
    """All links of a group, both ends."""

    def __init__(self, group: LinkedGroup) -> None:
        self.peers = group.peers
        self._group = group
        self._followers = {peer: _Follower(group, peer) for peer in group.peers}
        self.signals: set[asyncio.Event] = set()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, dial: Dial) -> None:
        """Follows all peers."""
        for peer, follower in self._followers.items():
            task = asyncio.create_task(follower.run(dial), name=f"link from {peer}")
            self._tasks.append(task)

    async def close(self) -> None:
        """Ends all links."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    def committed(self) -> None:
        """More is committed: there is something to acknowledge and to send."""
        for follower in self._followers.values():
            follower.committed()
        for signal in self.signals:
            signal.set()

    def compare(self) -> None:
        """Goes on comparing with the peers, and answering them."""
        for follower in self._followers.values():
            follower.settle()
        for signal in self.signals:
            signal.set()

    def relay(self, linked: Iterable[str]) -> None:
        """What comes from a region that is not heard itself is wanted from all others.

        So is, from who has it, what a region that is heard has lost.
        """
        lost = set(self._group.peers).difference(linked)
        views = {peer: follower.view for peer, follower in self._followers.items()}
        taken = self._group.journal.taken
        for peer, follower in self._followers.items():
            follower.relay(lost | bereft(peer, views, taken))

    def status(self) -> list[link_pb2.LinkStatus]:
        """How each link stands, by peer."""
        return [self._followers[peer].status() for peer in sorted(self._followers)]

    @property
    def known(self) -> list[Vector]:
        """What each peer has said last that it holds."""
        return [follower.view.vector for follower in self._followers.values()]

    @property
    def relayed(self) -> dict[str, list[Relayed]]:
        """By peer, what its streams hold until it is proven."""
        return {peer: list(follower.relayed) for peer, follower in self._followers.items()}


class _Follower:
    """The receiving end from one peer."""

    def __init__(self, group: LinkedGroup, peer: str) -> None:
        self._group = group
        self.peer = peer
        self.view = PeerView()
        self.lost: frozenset[str] = frozenset()
        self._streams: set[_Stream] = set()
        self._last_error = ""
        self._unreadable = ""

    async def run(self, dial: Dial) -> None:
        """Keeps a stream up until cancelled."""
        channel = dial(self.peer)
        stub: link_pb2_grpc.LinkServiceAsyncStub = link_pb2_grpc.LinkServiceStub(channel)
        stream: _Stream | None = None
        attempt = 0
        try:
            while True:
                if stream is None:
                    stream = self._open(stub)
                await asyncio.wait({stream.task}, timeout=self._age())
                if not stream.task.done():
                    stream = await self._renew(stub, stream)
                    continue
                fault = self._ended(stream)
                attempt = 0 if stream.greeted.is_set() else attempt + 1
                stream = None
                await asyncio.sleep(_pause(attempt, fault))
        finally:
            await asyncio.gather(*(each.stop() for each in tuple(self._streams)))
            await channel.close()

    def _open(self, stub: link_pb2_grpc.LinkServiceAsyncStub) -> _Stream:
        stream = _Stream(self, self._group, stub)
        self._streams.add(stream)
        stream.task.add_done_callback(lambda task: self._gone(stream, task))
        return stream

    def _gone(self, stream: _Stream, task: asyncio.Task[None]) -> None:
        self._streams.discard(stream)
        if not task.cancelled():
            task.exception()  # nobody else may ask for it: a follower that ends looks no more

    async def _renew(self, stub: link_pb2_grpc.LinkServiceAsyncStub, old: _Stream) -> _Stream:
        """Opens the next stream while the old one goes on; keeps the old one if that fails."""
        new = self._open(stub)
        greeted = asyncio.ensure_future(new.greeted.wait())
        await asyncio.wait({greeted, new.task}, return_when=asyncio.FIRST_COMPLETED)
        greeted.cancel()
        if new.greeted.is_set():
            await old.stop()
            return new
        self._ended(new)
        return old

    def _age(self) -> float | None:
        most = self._group.link_max_age
        return None if most is None else most * random.uniform(0.7, 0.9)  # noqa: S311 # jitter

    def _ended(self, stream: _Stream) -> bool:
        """Notes why a stream ended; tells whether it was a fault that a retry may not cure."""
        error = None if stream.task.cancelled() else stream.task.exception()
        message = "the peer ended the stream"
        fault = isinstance(error, LinkFault)
        if isinstance(error, LinkFault):
            message = f"{error}; {error.remedy}"
        elif isinstance(error, grpc.aio.AioRpcError):
            message = f"{error.code().name}: {error.details()}"
        elif isinstance(error, TimeoutError):
            message = f"nothing came for {SILENCE_SECONDS:g} s"
        elif error is not None:
            # A link outlives its own mistakes: it opens anew, and the state is in the journal.
            fault = True
            message = f"{type(error).__name__}: {error}"
            _log.error("group %s: link from %s", self._group.name, self.peer, exc_info=error)
        if message != self._last_error:
            level = logging.ERROR if fault else logging.INFO
            _log.log(level, "group %s: link from %s: %s", self._group.name, self.peer, message)
        self._last_error = message
        if isinstance(error, FormatUnknown):
            self._unreadable = message
        return fault

    def greeted(self) -> None:
        """The peer answered."""
        self._last_error = ""
        _log.info("group %s: link from %s is up", self._group.name, self.peer)

    def took_frame(self) -> None:
        """A frame came and could be read."""
        self._unreadable = ""

    def committed(self) -> None:
        """More is committed here."""
        self.settle()

    def settle(self) -> None:
        """Says what is due to the peer."""
        for stream in self._streams:
            # A fault is raised again where it ends the stream: with the next message, or heartbeat.
            with contextlib.suppress(LinkFault):
                stream.settle()

    def relay(self, lost: Iterable[str]) -> None:
        """Wants lost regions' changes from this peer too."""
        if self.lost != lost:
            self.lost = frozenset(lost)
            self.committed()

    def wanted(self) -> set[str]:
        """The regions whose changes are wanted from this peer: its own, and this region's past."""
        return {self.peer, self._group.region} | self.lost

    def status(self) -> link_pb2.LinkStatus:
        """How the link stands."""
        silence = self._group.presence.silence_ms(self.peer)
        status = link_pb2.LinkStatus(
            peer=self.peer,
            connected=any(stream.greeted.is_set() for stream in self._streams),
            silence=None if silence is None else duration(silence),
            # A frame that cannot be read waits where it is, in sight, however often it is tried.
            last_error=self._unreadable or self._last_error,
        )
        lagging.fill(status, self._group.journal, self.view.vector, silence, self._group.now_ms())
        return status

    @property
    def relayed(self) -> Iterator[Relayed]:
        """What each stream holds until it is proven."""
        return (stream.relayed for stream in self._streams)


class _Stream:
    """One call of Follow."""

    def __init__(
        self, follower: _Follower, group: LinkedGroup, stub: link_pb2_grpc.LinkServiceAsyncStub
    ) -> None:
        self.greeted = asyncio.Event()
        self._outgoing: asyncio.Queue[link_pb2.FollowRequest] = asyncio.Queue()
        self._follower = follower
        self._group = group
        self._receiver = Receiver(group.journal, group.name, follower.peer, follower.view)
        self._stub = stub
        self.task = asyncio.create_task(self._run(), name=f"stream from {follower.peer}")

    @property
    def relayed(self) -> Relayed:
        """What is held until it is proven."""
        return self._receiver.relayed

    async def stop(self) -> None:
        """Ends the stream."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def _run(self) -> None:
        call = self._stub.Follow()
        sending = asyncio.create_task(self._send(call), name=f"requests to {self._follower.peer}")
        try:
            for message in self._receiver.open(self._follower.wanted()):
                self._outgoing.put_nowait(message)
            while True:
                async with asyncio.timeout(SILENCE_SECONDS):
                    response = await call.read()
                if not isinstance(response, link_pb2.FollowResponse):
                    return  # the end of the stream
                self._take(response)
        finally:
            self._receiver.close()
            call.cancel()
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    async def _send(self, call: FollowCall) -> None:
        """Writes what goes to the peer.

        gRPC would do it, given an iterator, but forgets that task when a call ends by itself.
        """
        while True:
            await call.write(await self._outgoing.get())

    def _take(self, message: link_pb2.FollowResponse) -> None:
        self._group.presence.heard(self._follower.peer)
        self._group.refuse(self._receiver.on_message(message, self._group.now_ms()))
        if message.HasField("frame"):
            self._follower.took_frame()
        if message.WhichOneof("message") in ("frame", "start", "piece"):
            self._group.frames_came()
        if message.HasField("heartbeat"):
            self._group.presence.heard_of(self._follower.view.clocks)
            self._group.presence.showed(self._follower.peer, self._follower.view.wall_ms)
        if message.HasField("hello"):
            self.greeted.set()
            self._follower.greeted()
        self.settle()

    def settle(self) -> None:
        """Takes what is proven, says what became durable, and what is wanted now."""
        if self._receiver.release():
            self._group.frames_came()
        if self.greeted.is_set():
            now_ms = self._group.now_ms()
            messages = self._receiver.settle(now_ms) + self._receiver.want(self._follower.wanted())
            for message in messages + self._receiver.compare(now_ms):
                self._outgoing.put_nowait(message)


def _pause(attempt: int, fault: bool) -> float:
    least, most = _BACKOFF_SECONDS
    longest = _FAULT_SECONDS if fault else min(most, least * 2**attempt)
    return random.uniform(longest / 2, longest)  # noqa: S311 # jitter
