"""From a change of one method's callers to the last sidecar's acknowledgement."""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from mesh.contracts.model import Contract
from mesh.topology import Topology
from mesh.xds import SERVER_OPTIONS, AdsServer, Compiler, Fleet, Revision
from mesh.xds.kinds import ENDPOINTS, ROUTES
from mesh.xds.resources import Snapshot
from tests.bench.mesh.contract import FRONT, contract, topology, with_callers

ROOT = Path(__file__).resolve().parents[3]
_PATIENCE = 120.0


@dataclass
class Figures:
    """Of one run: milliseconds of each change, and what one change and one stream take."""

    applied: list[float] = field(default_factory=list)
    compiled: list[float] = field(default_factory=list)
    bytes_each: float = 0.0
    cpu_each: float = 0.0
    connected: float = 0.0
    megabytes: float = 0.0


async def run(streams: int, resources: int, changes: int) -> Figures:
    """Measures that many changes, one after the other, with that many streams."""
    whole = topology(resources)
    now, compiler, found = contract(whole), Compiler(), Figures()
    first = _revision(compiler, "0", now, whole)
    assert sum(map(len, first.snapshots[FRONT].values())) == resources
    before = resident()
    began = time.perf_counter()
    async with _serving(first, streams) as ads:
        await _all_have(ads, "0", streams)
        found.connected = time.perf_counter() - began
        found.megabytes = resident() - before
        sent, used = ads.traffic.bytes, time.process_time()
        for number in range(1, changes + 1):
            started = time.perf_counter()
            now = with_callers(now, number)
            revision = _revision(compiler, str(number), now, whole)
            compiled = time.perf_counter()
            ads.fleet.offer(revision)
            outcome = await ads.acknowledged(revision.name, [FRONT], within=_PATIENCE)
            ended = time.perf_counter()
            assert outcome.complete, outcome
            found.applied.append((ended - started) * 1e3)
            found.compiled.append((compiled - started) * 1e3)
        found.bytes_each = (ads.traffic.bytes - sent) / changes / streams
        found.cpu_each = (time.process_time() - used) / changes / streams * 1e6
    return found


def _revision(compiler: Compiler, name: str, now: Contract, whole: Topology) -> Revision:
    return Revision(name, {FRONT: compiler.snapshot(now, whole, FRONT.region, FRONT.workload)})


async def _all_have(ads: AdsServer, name: str, streams: int) -> None:
    async with asyncio.timeout(_PATIENCE):
        while len(ads.fleet.views()) < streams:
            await asyncio.sleep(0.05)
        assert (await ads.acknowledged(name, [FRONT], within=_PATIENCE)).complete


@asynccontextmanager
async def _serving(first: Revision, streams: int) -> AsyncIterator[AdsServer]:
    with tempfile.TemporaryDirectory(prefix="isthmus-bench-") as folder:
        socket = Path(folder) / "ads.sock"
        server = grpc.aio.server(options=SERVER_OPTIONS)
        ads = AdsServer(Fleet(first), lambda peer: FRONT)
        ads.add_to(server)
        server.add_insecure_port(f"unix:{socket}")
        await server.start()
        try:
            async with sidecars(socket, streams, first.snapshots[FRONT]):
                yield ads
        finally:
            await server.stop(None)


@asynccontextmanager
async def sidecars(socket: Path, streams: int, snapshot: Snapshot) -> AsyncIterator[None]:
    """A process of simulated sidecars, which ask for what is in a snapshot."""
    clients = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.bench.mesh.clients", str(socket), str(streams)),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
    )
    try:
        assert clients.stdin is not None
        named = {type_url: list(snapshot[type_url]) for type_url in (ENDPOINTS, ROUTES)}
        clients.stdin.write(json.dumps(named).encode() + b"\n")
        yield
    finally:
        clients.kill()
        await clients.wait()


def resident() -> float:
    """Megabytes of this process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / (1 << 20)
