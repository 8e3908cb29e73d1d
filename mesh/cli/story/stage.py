"""The stage: a mesh of its own, and the hands and eyes of whoever plays on it."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import grpc
from isthmus.overview.v1.overview_pb2 import ChannelView, GetOverviewRequest, Overview
from isthmus.overview.v1.overview_pb2_grpc import OverviewServiceStub

from mesh.cli.standing import Standing, agreements, ask
from mesh.local.control import ControlClient
from mesh.local.derive import derive
from mesh.local.detach import start_detached, stop
from mesh.local.layout import Layout
from mesh.local.ports import claim_blocks
from mesh.local.record import Record
from mesh.runtime.client import Edges, NoEdge
from mesh.topology import Topology

T = TypeVar("T")
_POLL = 0.1


class NotHeld(Exception):
    """A step of the story did not hold; the message says what was seen instead."""


@dataclass
class Stage:
    """A running mesh: drills by `control`, calls by `edges`, looks by `overview`."""

    topology: Topology
    layout: Layout
    control: ControlClient
    record: Record
    _edges: dict[str, Edges] = field(default_factory=dict)

    @property
    def regions(self) -> tuple[str, ...]:
        """The regions' names, in order."""
        return self.topology.region_names

    def edges(self, region: str) -> Edges:
        """Calls as the operator through one region's edge, and no other."""
        if region not in self._edges:
            self._edges[region] = Edges([str(self.topology.edge(region))], self.layout.operator)
        return self._edges[region]

    async def overview(self, region: str) -> Overview:
        """The picture as a region has it."""
        reply = await self.edges(region).call(
            lambda channel: OverviewServiceStub(channel).GetOverview(
                GetOverviewRequest(), timeout=3
            ),
            repeatable=True,
        )
        picture: Overview = reply.overview
        return picture

    async def channel(self, region: str, channel_id: str) -> ChannelView | None:
        """A channel as a region sees it; None if it does not."""
        picture = await self.overview(region)
        return next((v for v in picture.channels if v.channel.channel_id == channel_id), None)

    async def standings(self, regions: tuple[str, ...] | None = None) -> list[Standing]:
        """How the workloads stand."""
        return await ask(self.topology, self.layout.operator, regions or self.regions)

    async def converged(self) -> dict[str, str] | None:
        """Each group's one digest once all regions hold identical data; None before."""
        standings = await self.standings()
        if not all(standing.healthy for standing in standings):
            return None
        found = agreements(standings)
        for agreement in found:
            if agreement.differing:
                raise NotHeld(
                    f"{', '.join(agreement.differing)} hold different data of "
                    f"{agreement.group!r} after the same changes"
                )
        if not all(each.converged and len(each.regions) == len(self.regions) for each in found):
            return None
        return {agreement.group: agreement.digest for agreement in found}

    async def close(self) -> None:
        """Closes the connections; the mesh goes on."""
        for edges in self._edges.values():
            await edges.close()
        self._edges.clear()


async def until(
    look: Callable[[], Awaitable[T | None]], within: float, what: str
) -> tuple[T, float]:
    """Looks until there is something true; returns it and the seconds that it took.

    Calls that fail meanwhile are looks that saw nothing. Raises `NotHeld` after `within` seconds.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    seen = ""
    while True:
        try:
            found = await look()
            if found:
                return found, loop.time() - began
        except (grpc.aio.AioRpcError, NoEdge) as error:
            seen = str(error.details() if isinstance(error, grpc.aio.AioRpcError) else error)
        if loop.time() - began > within:
            raise NotHeld(f"not within {within:.0f} s: {what}" + (f" ({seen})" if seen else ""))
        await asyncio.sleep(_POLL)


@asynccontextmanager
async def stage(
    original: Topology, folder: Path, *, tied: bool = True, otlp: str = ""
) -> AsyncIterator[Stage]:
    """Runs a copy of a mesh in `folder` until the block ends; with `tied` no longer than we live.

    Raises `NoFreePorts`, and `LocalError` if it does not start.
    """
    claim = claim_blocks(len(original.regions) + 1)
    try:
        topology = derive(original, folder, claim.bases, otlp=otlp)
        layout = Layout.of(topology)
        record = await start_detached(layout, tied=tied)
        opened = Stage(topology, layout, ControlClient(layout.control), record)
        try:
            yield opened
        finally:
            await opened.close()
            if tied:
                await stop(layout)
    finally:
        claim.release()


def new_folder() -> Path:
    """A folder for a stage, in the system's place for temporary files."""
    return Path(tempfile.mkdtemp(prefix="isthmus-demo-"))
