"""The service that peers call to follow a group."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import grpc
from isthmus.replication.v1 import link_pb2, link_pb2_grpc

from mesh.replication.core.errors import Left, LinkFault, WrongRegion
from mesh.replication.core.handshake import error_message
from mesh.replication.core.sending import HEARTBEAT_MS, Sender
from mesh.replication.errors import StoreError
from mesh.replication.group import Group

_log = logging.getLogger("isthmus.replication")

ServicerContext = grpc.aio.ServicerContext[link_pb2.FollowRequest, link_pb2.FollowResponse]
PeerRegion = Callable[[grpc.aio.ServicerContext[Any, Any]], str]
"""Tells from which region a call comes, by the caller's certificate."""

_POLL_SECONDS = HEARTBEAT_MS / 1000 / 2


class LinkServicer(link_pb2_grpc.LinkServiceServicer):
    """Sends a group's changes to the peers that follow it."""

    def __init__(self, group: Group, peer_region: PeerRegion) -> None:
        self._group = group
        self._peer_region = peer_region

    # Reads and writes by the context: generators, gRPC's and ours, do not stand being cancelled.
    async def Follow(  # type: ignore[override] # the stubs know generators only
        self, request_iterator: object, context: ServicerContext
    ) -> None:
        """One link; ends with a typed error if the two ends cannot link."""
        peer = self._peer_region(context)
        group = self._group
        sender = Sender(group.journal, group.tail, group.name, peer)
        answers: asyncio.Queue[link_pb2.FollowResponse] = asyncio.Queue()
        signal = asyncio.Event()
        group.commit_signals.add(signal)
        reading = asyncio.create_task(self._read(context, peer, sender, answers, signal))
        reading.add_done_callback(lambda _: signal.set())
        try:
            if peer not in group.peers:
                raise WrongRegion(f"{peer!r} is no peer of {group.name} in {group.region}")
            while not group.left:
                while not answers.empty():
                    await context.write(answers.get_nowait())
                for message in sender.poll(group.now_ms(), group.presence.clocks):
                    await context.write(message)
                if reading.done():
                    await reading
                    return
                if not sender.has_more:
                    try:
                        async with asyncio.timeout(_POLL_SECONDS):
                            await signal.wait()
                    except TimeoutError:
                        pass  # time for a heartbeat
                    signal.clear()
        except LinkFault as fault:
            _log.error("group %s: link to %s: %s", group.name, peer, fault)
            await context.write(error_message(fault))
        finally:
            group.commit_signals.discard(signal)
            sender.close()
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def Claim(
        self,
        request: link_pb2.ClaimRequest,
        context: grpc.aio.ServicerContext[link_pb2.ClaimRequest, link_pb2.ClaimResponse],
    ) -> link_pb2.ClaimResponse:
        """Answers a region that is asked for an operation which may have been done here."""
        group, peer = self._group, self._peer_region(context)
        if peer not in group.peers or request.group != group.name:
            await context.abort(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"{peer!r} asks for {request.group!r}; here is {group.name} in {group.region}, "
                f"whose peers are {', '.join(group.peers)}",
            )
        try:
            return await group.claim(peer, request)
        except StoreError as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))

    async def _read(
        self,
        context: ServicerContext,
        peer: str,
        sender: Sender,
        answers: asyncio.Queue[link_pb2.FollowResponse],
        signal: asyncio.Event,
    ) -> None:
        while isinstance(request := await context.read(), link_pb2.FollowRequest):
            try:
                messages, lost = sender.on_message(request, self._group.now_ms())
            except Left:
                # Whether it wrote all the same: then it is not left alone with that.
                self._group.acknowledged(peer, sender.durable)
                raise
            self._group.refuse(lost)
            if not request.HasField("credit"):
                self._group.acknowledged(peer, sender.durable)
            for message in messages:
                answers.put_nowait(message)
            signal.set()
