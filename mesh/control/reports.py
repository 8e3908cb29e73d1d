"""What the agents of a region's sidecars have said last, and how they are asked again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from isthmus.mesh.v1 import revision_pb2
from isthmus.mesh.v1 import sidecars_pb2 as pb

from mesh.xds.fleet import Instance

HELD = 20.0
"""Seconds after which an agent is asked again though nobody wants to know."""

_LATE = 5.0
"""Seconds by which a report may be late."""

COUNTED = 15.0
"""Seconds for which calls are counted after somebody wanted to know of them."""


@dataclass(frozen=True)
class Reported:
    """A report, and when it came (seconds of the loop's clock, milliseconds since 1970)."""

    report: pb.SidecarReport
    at: float
    at_ms: int


Texts = Mapping[Instance, Sequence[revision_pb2.ResourceName]]
"""Of which resources the whole text is wanted."""


@dataclass(eq=False)
class _Inspection:
    """A question to those that have not answered it yet, and the answers of the others."""

    number: int
    texts: Texts
    waiting: set[Instance]
    answers: dict[Instance, pb.RunningConfiguration] = field(default_factory=dict)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)


class Reports:
    """All agents of a region."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._last: dict[Instance, Reported] = {}
        self._held: dict[Instance, asyncio.Event] = {}
        self._arrived = asyncio.Event()
        self._calls_until = 0.0
        self._inspections: list[_Inspection] = []
        self._inspected = 0
        self._tap: pb.TapOrder | None = None
        self._told: dict[Instance, pb.TapOrder | None] = {}

    @property
    def last(self) -> dict[Instance, Reported]:
        """What each has said last."""
        return self._last

    async def take(self, instance: Instance, report: pb.SidecarReport) -> pb.ReportResponse:
        """Takes a report, and returns when the next one is wanted: what it shall hold."""
        loop = asyncio.get_running_loop()
        self._note(instance, report)
        self._last[instance] = Reported(report, loop.time(), self._now_ms())
        self._arrived.set()
        before = self._held.get(instance)
        if before is not None:
            before.set()  # its agent began anew
        asked = self._held[instance] = asyncio.Event()
        if self._order(instance) is not None or self._told.get(instance) != self._tap:
            asked.set()  # there is more to tell already
        try:
            async with asyncio.timeout(HELD):
                await asked.wait()
        except TimeoutError:
            pass  # once in a while is often enough
        finally:
            if self._held.get(instance) is asked:
                del self._held[instance]
        self._told[instance] = self._tap
        return pb.ReportResponse(
            tap=self._tap, calls=loop.time() < self._calls_until, inspect=self._order(instance)
        )

    async def inspect(self, texts: Texts, within: float) -> dict[Instance, pb.RunningConfiguration]:
        """What the Envoys run by their own word, of those whose agents answer in time (seconds).

        Nothing of it is kept.
        """
        self._inspected += 1
        asked = _Inspection(self._inspected, texts, self.alive())
        self._inspections.append(asked)
        self.release()
        try:
            async with asyncio.timeout(within):
                while asked.waiting:
                    asked.arrived.clear()
                    await asked.arrived.wait()
        except TimeoutError:
            pass  # of those who did not answer nothing is known
        finally:
            self._inspections.remove(asked)
        return asked.answers

    def tap(self, order: pb.TapOrder | None) -> None:
        """Tells all agents which calls to send from now on."""
        self._tap = order
        self.release()

    def alive(self) -> set[Instance]:
        """Those whose agents have been heard lately."""
        since = asyncio.get_running_loop().time() - HELD - _LATE
        return {instance for instance, last in self._last.items() if last.at > since}

    def _order(self, instance: Instance) -> pb.InspectionOrder | None:
        for each in self._inspections:
            if instance in each.waiting:
                return pb.InspectionOrder(id=each.number, texts=each.texts.get(instance, ()))
        return None

    def _note(self, instance: Instance, report: pb.SidecarReport) -> None:
        """Hands what an Envoy runs to whoever asked, and keeps it out of what is remembered."""
        if not report.HasField("running"):
            return
        for each in self._inspections:
            if each.number == report.running.id:
                each.answers[instance] = pb.RunningConfiguration.FromString(
                    report.running.SerializeToString()
                )
                each.waiting.discard(instance)
                each.arrived.set()
        report.ClearField("running")

    async def ask(self, *, calls: bool, within: float) -> None:
        """Asks all agents, and waits for those that answer in time (seconds)."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        if calls:
            self._calls_until = began + COUNTED
        asked = set(self._held)
        self.release()
        try:
            async with asyncio.timeout(within):
                while any(self._last[each].at < began for each in asked):
                    self._arrived.clear()
                    await self._arrived.wait()
        except TimeoutError:
            pass  # those who did not answer are as old as they say

    def release(self) -> None:
        """Answers all agents that wait."""
        for event in self._held.values():
            event.set()
