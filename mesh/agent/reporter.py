"""Tells the region's control plane how a sidecar stands, through that sidecar.

So what a report says of the way to the control plane is true: where a sidecar lets nothing through
any more, nothing is heard of it.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Callable
from datetime import datetime

import grpc
from isthmus.mesh.v1 import sidecars_pb2 as pb
from isthmus.mesh.v1.sidecars_pb2_grpc import SidecarServiceStub

from mesh.agent import admin
from mesh.agent.calls import CallCounter
from mesh.agent.inspection import inspect
from mesh.agent.tap import Tap, whose
from mesh.agent.upstreams import PAGE, upstreams
from mesh.contracts.exceptions import CONTROL
from mesh.contracts.model import Contract
from mesh.envoy import ACCESS_LOG
from mesh.place import Place

_WITHIN = 25.0
_LEAST, _MOST = 1.0, 10.0
"""Seconds to wait after a report that did not arrive."""


class Reporter:
    """One sidecar's reports. `certificate` says until when it is valid, and what is wrong."""

    def __init__(
        self,
        contract: Contract,
        place: Place,
        certificate: Callable[[], tuple[datetime | None, str]],
    ) -> None:
        self._place = place
        self._who = whose(place)
        self._certificate = certificate
        self._paths = frozenset(method.path for method in contract.methods())
        self._streams = frozenset(m.path for m in contract.methods() if m.streaming)
        self._counter: CallCounter | None = None
        self._counting_since = 0
        self._tap = Tap(contract, place)
        self._asked: pb.InspectionOrder | None = None

    async def run(self) -> None:
        """Reports, and again whenever it is asked to, until it is cancelled."""
        try:
            await self._run()
        finally:
            await self._tap.end()

    async def _run(self) -> None:
        async with grpc.aio.insecure_channel(
            f"unix:{self._place.egress_socket}",
            options=[
                ("grpc.default_authority", CONTROL),
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.initial_reconnect_backoff_ms", 200),
                ("grpc.max_reconnect_backoff_ms", 2000),
            ],
        ) as channel:
            stub = SidecarServiceStub(channel)
            pause = _LEAST
            while True:
                try:
                    report = await self._report()
                    answer = await stub.Report(
                        pb.ReportRequest(report=report), timeout=_WITHIN, metadata=self._who
                    )
                    self._count(answer.calls)
                    self._asked = answer.inspect if answer.HasField("inspect") else None
                    await self._tap.obey(answer.tap if answer.HasField("tap") else None, channel)
                    pause = _LEAST
                except (grpc.aio.AioRpcError, admin.AdminUnreachable):
                    await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  spreads load, guards nothing
                    # While calls are counted somebody waits to hear of this.
                    pause = _LEAST if self._counter else min(2 * pause, _MOST)

    def _count(self, wanted: bool) -> None:
        if not wanted:
            self._counter = None
        elif self._counter is None:
            self._counting_since = secrets.randbits(53)
            self._counter = CallCounter(self._place.logs / ACCESS_LOG, self._paths, self._streams)

    async def _report(self) -> pb.SidecarReport:
        not_after, problem = self._certificate()
        report = pb.SidecarReport(problem=problem, counting_since=self._counting_since)
        if not_after is not None:
            report.certificate_not_after.FromDatetime(not_after)
        if self._asked is not None:
            report.running.CopyFrom(await inspect(self._place, self._asked))
        if self._counter is not None:
            self._counter.read()
            for path, tally in sorted(self._counter.tallies.items()):
                report.calls.add(path=path, calls=tally.calls, failures=tally.failures)
        page = await admin.get(self._place.admin_socket, PAGE)
        for each in upstreams(page.decode(errors="replace")):
            report.upstreams.add(
                cluster=each.cluster,
                instances=each.instances,
                healthy=each.healthy,
                ejected=each.ejected,
                open=each.open,
            )
        return report
