"""Asks all other regions for an operation before a repeat of it is done here, and answers them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from typing import Protocol

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from isthmus.replication.v1 import link_pb2, link_pb2_grpc

from mesh.replication.core.clocks import Vector, vector_from_proto, vector_to_proto
from mesh.replication.core.grants import Claims, Operation
from mesh.replication.core.receipts import Receipt
from mesh.replication.errors import OperationUnknown
from mesh.replication.links import Dial

_log = logging.getLogger("isthmus.replication")

_LONGEST_SECONDS = 5.0
"""For how long is asked for a call that has no deadline of its own."""

_PAUSE_SECONDS = 0.05


class ClaimingGroup(Protocol):
    """What claims need of their group."""

    name: str
    region: str

    def now_ms(self) -> int:
        """The wall clock in milliseconds."""

    def claimed_from(self) -> Collection[str]:
        """The regions that may have done an operation: all members but this one."""

    def position(self) -> Vector:
        """What is here."""

    async def fence(self, operation: Operation, time_ms: int) -> None:
        """Makes durable that an operation was granted."""


class Done(Exception):
    """Another region did it. Who has all up to `vector` has what it wrote."""

    def __init__(self, region: str, receipt: Receipt, vector: Vector) -> None:
        super().__init__(region)
        self.region = region
        self.receipt = receipt
        self.vector = vector


Known = Callable[[Operation], Awaitable[Receipt | None]]
"""What is kept of an operation that was done here; waits for one in flight."""

Coming = Callable[[Operation], bool]
"""Whether its change came here and is not stored yet; its own region may have lost it since."""


class Claiming:
    """One group's claims, both ways. `discreet`: results of operations do not leave the region."""

    def __init__(
        self,
        group: ClaimingGroup,
        claims: Claims,
        known: Known,
        coming: Coming,
        *,
        discreet: bool,
    ) -> None:
        self._group = group
        self._claims = claims
        self._known = known
        self._coming = coming
        self._discreet = discreet
        self._dial: Dial | None = None
        self._channels: dict[str, grpc.aio.Channel] = {}

    def connect(self, dial: Dial) -> None:
        """From now on other regions can be asked."""
        self._dial = dial

    async def close(self) -> None:
        """Asks nobody any more."""
        self._dial = None
        channels, self._channels = list(self._channels.values()), {}
        for channel in channels:
            await channel.close()

    def is_fenced(self, operation: Operation) -> bool:
        """Whether an operation was granted to another region."""
        return self._claims.is_fenced(operation)

    def is_coming(self, operation: Operation) -> bool:
        """Whether its change came here and is not visible yet, though it may be on disk."""
        return self._coming(operation)

    async def claim(self, operation: Operation, seconds: float | None) -> None:
        """Returns once all regions have granted an operation, which is to be begun at once.

        Nothing may be awaited in between. Raises `Done` if a region did it, and `OperationUnknown`
        if that cannot be known within `seconds`.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + (_LONGEST_SECONDS if seconds is None else seconds)
        silent: set[str] | None = None
        while True:
            self._claims.begin(operation)
            try:
                verdicts = await self._ask_all(operation, end - loop.time())
            finally:
                kept = self._claims.end(operation)
            open = {region for region, granted in verdicts.items() if not granted}
            if kept and not open and not self._coming(operation):
                return
            # The last time, little is left for an answer: who granted it before was heard.
            silent = open if silent is None else silent & open
            if end - loop.time() <= _PAUSE_SECONDS:
                regions = sorted(silent)
                raise OperationUnknown(
                    "this repeats a request that another region may have done, and it cannot be "
                    f"asked now: {', '.join(regions) or 'all'}. Repeat it under the same id once "
                    "that region is reached again, or read whether it took effect",
                    regions=regions,
                )
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _ask_all(self, operation: Operation, seconds: float) -> dict[str, bool]:
        """Who grants it. Raises `Done` as soon as one says that it did it."""
        regions = self._group.claimed_from()
        asked = {
            asyncio.create_task(self._ask(region, operation, seconds)): region for region in regions
        }
        verdicts = dict.fromkeys(regions, False)
        waiting = set(asked)
        try:
            while waiting and not any(_done(task) for task in asked):
                finished, waiting = await asyncio.wait(
                    waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
                )
                if not finished:
                    break
            for task, region in asked.items():
                if task.done():
                    verdicts[region] = task.result()
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        return verdicts

    async def _ask(self, region: str, operation: Operation, seconds: float) -> bool:
        channel = self._channel(region)
        if channel is None:
            return False
        stub: link_pb2_grpc.LinkServiceAsyncStub = link_pb2_grpc.LinkServiceStub(channel)
        actor, method, request_id = operation
        request = link_pb2.ClaimRequest(
            group=self._group.name, actor=actor, method=method, request_id=request_id
        )
        try:
            answer = await stub.Claim(request, timeout=seconds)
        except grpc.aio.AioRpcError as error:
            _log.debug("group %s: claim in %s: %s", self._group.name, region, error.details())
            return False
        if answer.HasField("done"):
            raise Done(
                region, _receipt(operation, answer.done), vector_from_proto(answer.done.vector)
            )
        return answer.HasField("granted")

    def _channel(self, region: str) -> grpc.aio.Channel | None:
        if self._dial is not None and region not in self._channels:
            self._channels[region] = self._dial(region)
        return self._channels.get(region)

    async def answer(self, by: str, request: link_pb2.ClaimRequest) -> link_pb2.ClaimResponse:
        """What a region is told that asks for an operation. Raises `StoreError`."""
        operation = request.actor, request.method, request.request_id
        receipt = await self._known(operation)
        if self._coming(operation):
            return link_pb2.ClaimResponse(busy=link_pb2.ClaimResponse.Busy())
        if receipt is not None:
            return link_pb2.ClaimResponse(done=self._done(receipt))
        now_ms = self._group.now_ms()
        if not self._claims.asked(operation, by, now_ms):
            return link_pb2.ClaimResponse(busy=link_pb2.ClaimResponse.Busy())
        await self._group.fence(operation, now_ms)
        return link_pb2.ClaimResponse(granted=link_pb2.ClaimResponse.Granted())

    def _done(self, receipt: Receipt) -> link_pb2.ClaimResponse.Done:
        told = receipt.bare() if self._discreet else receipt
        time = Timestamp()
        time.FromMilliseconds(receipt.time_ms)
        return link_pb2.ClaimResponse.Done(
            vector=vector_to_proto(self._group.position()),
            request_digest=told.digest,
            response_type=told.type,
            response=told.response,
            time=time,
        )


def _done(task: asyncio.Task[bool]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is not None


def _receipt(operation: Operation, done: link_pb2.ClaimResponse.Done) -> Receipt:
    time_ms = done.time.ToMilliseconds()
    return Receipt(*operation, done.request_digest, done.response_type, done.response, time_ms)
