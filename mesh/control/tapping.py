"""Live calls for operators: see isthmus/mesh/v1/tap.proto."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import structlog
from google.protobuf.json_format import MessageToDict
from isthmus.mesh.v1 import tap_pb2 as pb
from isthmus.mesh.v1.tap_pb2_grpc import TapServiceServicer

from mesh.control.agents import reporting
from mesh.control.reports import Reports
from mesh.control.taps import Tap, Taps, TooManyTaps
from mesh.runtime import ResourceExhausted, caller
from mesh.xds.fleet import Fleet

Context = grpc.aio.ServicerContext[Any, Any]

_JOINED_WITHIN = 3.0

_log = structlog.get_logger("isthmus.control")


class TapService(TapServiceServicer):
    """Hands what agents send to those who tap."""

    def __init__(self, region: str, fleet: Fleet, reports: Reports) -> None:
        self._region = region
        self._fleet = fleet
        self._reports = reports
        self._taps = Taps(self._order)
        self._over = False

    async def Tap(  # type: ignore[override] # the stubs know generators only
        self, request: pb.TapRequest, context: Context
    ) -> None:
        """Calls from now on. Who taps what is logged, when it begins and when it ends."""
        who, loop = str(caller()), asyncio.get_running_loop()
        tap = Tap(request.filter, request.per_second, loop.time)
        try:
            self._taps.open(tap)
        except TooManyTaps as error:
            raise ResourceExhausted(f"{error}: end one of them", reason="TOO_MANY_TAPS") from None
        began = loop.time()
        asked = MessageToDict(request.filter, preserving_proto_field_name=True)
        _log.info("tap begins", by=who, filter=asked)
        try:
            alive = self._reports.alive()
            joined = await self._taps.joined(len(alive), _JOINED_WITHIN)
            await context.write(pb.TapResponse(sidecars=joined))
            while not self._over:
                await context.write(await tap.take())
        finally:
            self._taps.close(tap)
            _log.info(
                "tap ended",
                by=who,
                filter=asked,
                seconds=round(loop.time() - began, 1),
                shown=tap.shown,
                left_out=tap.left_out,
            )

    async def Feed(  # type: ignore[override] # the same
        self, request_iterator: object, context: Context
    ) -> None:
        """What a sidecar of this region sends, as long as it is asked to."""
        instance, order = reporting(context, self._region, self._fleet), 0
        try:
            while isinstance(request := await context.read(), pb.FeedRequest):
                order = request.id
                for each in request.calls:  # nobody speaks for another sidecar
                    each.sidecar.region, each.sidecar.workload = instance.region, instance.workload
                self._taps.feed(instance, request)
        finally:
            self._taps.gone(instance, order)

    def close(self) -> None:
        """Ends all taps."""
        self._over = True
        self._taps.wake()

    def _order(self) -> None:
        self._reports.tap(self._taps.order)
