"""Sends calls of a sidecar to its control plane while somebody taps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
from isthmus.mesh.v1 import sidecars_pb2, tap_pb2
from isthmus.mesh.v1.tap_pb2_grpc import TapServiceStub

from mesh.agent.payloads import Payloads
from mesh.agent.tail import LogTail
from mesh.contracts.model import Contract
from mesh.envoy import ACCESS_LOG
from mesh.envoy.tapped import call, wanted
from mesh.place import VERSION_HEADER, Place

LOOK_SECONDS = 0.2
MOST_CALLS = 400
"""What is sent of one look, so two thousand calls a second; the others are counted."""

_MOST_BYTES = 1 << 20
_PAUSE = 1.0


def whose(place: Place) -> tuple[tuple[str, str], ...]:
    """Metadata of what an agent tells its control plane: which of the workload's versions it is."""
    return ((VERSION_HEADER, place.version),) if place.version else ()


class Tap:
    """One sidecar's part in all taps of its region: the order that is obeyed, if there is one."""

    def __init__(self, contract: Contract, place: Place) -> None:
        self._contract = contract
        self._place = place
        self._order = 0
        self._task: asyncio.Task[None] | None = None

    async def obey(self, order: sidecars_pb2.TapOrder | None, channel: grpc.aio.Channel) -> None:
        """Begins what is asked, goes on with it, or ends what nobody asks for any more."""
        running = self._task is not None and not self._task.done()
        if order is not None and running and order.id == self._order:
            return
        await self.end()
        if order is not None:
            self._order = order.id
            self._task = asyncio.create_task(
                self._feed(order, channel),
                name=f"tap {self._place.region}/{self._place.instance}",
            )

    async def end(self) -> None:
        """Ends, if it is on."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _feed(self, order: sidecars_pb2.TapOrder, channel: grpc.aio.Channel) -> None:
        while True:
            try:
                async for _ in TapServiceStub(channel).Feed(
                    self._requests(order), metadata=whose(self._place)
                ):
                    pass  # nothing is said on the way back
            except grpc.aio.AioRpcError:
                pass  # until an answer to a report says that nobody asks any more
            await asyncio.sleep(_PAUSE)

    async def _requests(self, order: sidecars_pb2.TapOrder) -> AsyncIterator[tap_pb2.FeedRequest]:
        # A reader that is slow holds this up, and nothing else: the next look finds more.
        tail = LogTail(self._place.logs / ACCESS_LOG, _MOST_BYTES)
        asked = [each for each in order.filters if each.payloads]
        payloads = Payloads(self._contract, self._place.admin_socket)
        following: asyncio.Task[None] | None = None
        if asked:
            named = all(each.paths for each in asked)
            paths = {path for each in asked for path in each.paths} if named else ()
            following = asyncio.create_task(payloads.follow(paths))
        try:
            yield tap_pb2.FeedRequest(id=order.id)
            while True:
                await asyncio.sleep(LOOK_SECONDS)
                request = await asyncio.to_thread(self._look, tail, order)
                for each in request.calls if asked else ():
                    if wanted(each, asked):
                        _say(each, payloads)
                if request.calls or request.left_out:
                    yield request
        finally:
            if following is not None:
                following.cancel()

    def _look(self, tail: LogTail, order: sidecars_pb2.TapOrder) -> tap_pb2.FeedRequest:
        before = tail.skipped
        request = tap_pb2.FeedRequest(id=order.id)
        for line in tail.read():
            found = call(line, self._place.region, self._place.workload)
            if found is None or not wanted(found, order.filters):
                continue
            if len(request.calls) < MOST_CALLS:
                request.calls.append(found)
            else:
                request.left_out += 1
        request.left_out += tail.skipped - before
        return request


def _say(call: tap_pb2.TappedCall, payloads: Payloads) -> None:
    asked, answered, call.cut = payloads.take(call.request_id, call.path)
    call.requests.extend(asked)
    call.responses.extend(answered)
