"""The supervisor: one process that runs every region of a mesh on this machine.

It starts the WAN, the media origin, and in each region the authority, the other workloads with
their sidecars, the edge and the devices; keeps them running; takes commands on a control socket;
and stops everything in order. Nothing survives it: see `mesh.local.child`.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from mesh.contracts.model import Contract
from mesh.contracts.read import image
from mesh.control import Installation, compile_mesh
from mesh.local.checks import DISK_NEEDED, check_machine
from mesh.local.control import ControlServer
from mesh.local.drills import Drills
from mesh.local.errors import NotReady
from mesh.local.gather import first_error
from mesh.local.issuers import Issuers
from mesh.local.layout import Layout
from mesh.local.operator import OperatorIdentity
from mesh.local.origin import Origin
from mesh.local.progress import Progress, Stage, Watcher
from mesh.local.record import Record, locked, write
from mesh.local.region import LocalRegion
from mesh.local.wan import Wan

STOP_WITHIN = 9.0
"""Seconds after which what still runs is killed with the supervisor's own death."""


def utc_now() -> datetime:
    """The host's time, in UTC."""
    return datetime.fromtimestamp(time.time_ns() / 1e9, UTC)


class Supervisor:
    """Runs a mesh from `run`'s call to its return."""

    def __init__(
        self,
        contract: Contract,
        layout: Layout,
        watch: Watcher,
        *,
        now: Callable[[], datetime] = utc_now,
        disk_needed: int = DISK_NEEDED,
    ) -> None:
        self._contract = contract
        self._layout = layout
        self._watch = watch
        self._now = now
        self._disk_needed = disk_needed
        self._wan = Wan(layout.topology)
        self._origin = Origin(layout.origin, layout.topology.origin)
        self._operator = OperatorIdentity(layout, now)
        self._issuers = Issuers(layout, now)
        self._regions = {
            name: LocalRegion(contract, layout, name, watch, self._changed, now, self._installation)
            for name in layout.topology.region_names
        }
        self._compiling: asyncio.Task[Installation] | None = None
        self._stopping = asyncio.Event()
        self._record = Record(
            pid=os.getpid(),
            phase="starting",
            mesh=str(layout.topology.path),
            control=str(layout.control),
            started_ms=_milliseconds(now()),
        )
        self._writing: asyncio.TimerHandle | None = None
        drills = Drills(self._wan, self._regions)
        self._control = ControlServer(
            layout.control, {"down": self._down, "describe": self.describe, **drills.handlers()}
        )

    async def run(self, when_up: Callable[[Record], None]) -> bool:
        """Starts everything, calls `when_up`, and returns when all is stopped again.

        Returns False if it was told to stop before everything was up. Stops on SIGINT, SIGTERM,
        SIGHUP or the control socket's `down`. Raises `AlreadyUp`, `NotReady` or `StartFailed`;
        nothing is left running then either.
        """
        self._layout.prepare()
        with locked(self._layout):
            check_machine(self._layout, self._disk_needed)
            loop = asyncio.get_running_loop()
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                loop.add_signal_handler(number, self._stopping.set)
            try:
                started = await self._start_unless_stopped()
                if started:
                    self._note_phase("up", healthy_ms=_milliseconds(self._now()))
                    when_up(self._current())
                    await self._until_stopped()
            finally:
                self._note_phase("stopping")
                await self._stop()
                self._end_record()
            return started

    async def describe(self) -> dict[str, object]:
        """The record, with the links' faults."""
        faults = {
            f"{a}->{b}": {
                "delay": link.fault.delay,
                "jitter": link.fault.jitter,
                "stall": link.fault.stall,
                "cut": link.fault.cut,
                "connections": link.streams,
            }
            for (a, b), link in self._wan.links.items()
        }
        return {**self._current().to_json(), "wan": faults}

    async def _down(self) -> dict[str, object]:
        self._stopping.set()
        return {"pid": os.getpid()}

    async def _start_unless_stopped(self) -> bool:
        """Starts everything; False if it was told to stop meanwhile."""
        starting = asyncio.create_task(self._start())
        stopped = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait((starting, stopped), return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                await starting
                return True
            return False
        finally:
            for task in (starting, stopped):
                task.cancel()
            await asyncio.gather(starting, stopped, return_exceptions=True)

    async def _start(self) -> None:
        try:
            await self._control.start()
            await self._wan.start()
            await self._origin.start()
        except OSError as error:
            raise NotReady(f"cannot listen: {error}") from error
        self._write_record()
        # One after the other: the regions share the root.
        first, *others = self._regions.values()
        async with first_error() as tasks:
            await first.prepare()
            tasks.create_task(self._operator.issue())
            tasks.create_task(first.start())
            for region in others:
                await region.prepare()
                tasks.create_task(region.start())

    async def _installation(self) -> Installation:
        """What the sidecars of all regions get at first; compiled once."""
        if self._compiling is None:
            self._compiling = asyncio.create_task(
                asyncio.to_thread(compile_mesh, image(), self._contract, self._layout.topology)
            )
        return await asyncio.shield(self._compiling)

    async def _until_stopped(self) -> None:
        keeping = asyncio.gather(self._operator.keep(), self._issuers.keep())
        stopped = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait((keeping, stopped), return_when=asyncio.FIRST_COMPLETED)
            if keeping.done():
                await keeping
        finally:
            for task in (keeping, stopped):
                task.cancel()
            await asyncio.gather(keeping, stopped, return_exceptions=True)

    async def _stop(self) -> None:
        """In order: what calls before what is called. Kills what does not end in time."""
        regions = tuple(self._regions.values())
        try:
            async with asyncio.timeout(STOP_WITHIN):
                await asyncio.gather(*(region.stop_devices() for region in regions))
                await asyncio.gather(*(region.stop_services() for region in regions))
                await asyncio.gather(*(region.stop_sidecars() for region in regions))
        except TimeoutError:
            self._watch(Progress("mesh", Stage.NOTE, "some processes had to be killed"))
            await asyncio.gather(*(region.kill() for region in regions))
        await self._wan.close()
        await self._origin.close()
        await self._control.close()
        shutil.rmtree(self._layout.run, ignore_errors=True)

    def _changed(self) -> None:
        # Many parts change at once while a mesh starts: one write for all of them.
        if self._writing is None:
            self._writing = asyncio.get_running_loop().call_later(0.1, self._write_record)

    def _write_record(self) -> None:
        self._forget_writing()
        if self._layout.state.exists():
            write(self._layout.record, self._current())

    def _end_record(self) -> None:
        self._forget_writing()
        self._layout.record.unlink(missing_ok=True)

    def _forget_writing(self) -> None:
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None

    def _note_phase(self, phase: str, healthy_ms: int | None = None) -> None:
        healthy = self._record.healthy_ms if healthy_ms is None else healthy_ms
        self._record = replace(self._record, phase=phase, healthy_ms=healthy)
        self._write_record()

    def _current(self) -> Record:
        processes = (each for region in self._regions.values() for each in region.records())
        return replace(self._record, processes=tuple(processes))


def _milliseconds(time: datetime) -> int:
    return int(time.timestamp() * 1000)
