"""The same changes, served by other control planes."""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path

from mesh.envoy.discovery import discovered
from mesh.xds import Compiler
from mesh.xds.resources import Snapshot
from tests.bench.mesh.changes import Figures, sidecars
from tests.bench.mesh.contract import FRONT, contract, topology, with_callers
from tests.bench.mesh.peers import gocontrolplane, sovereign

_PATIENCE = 300.0


def _differ(before: Snapshot, after: Snapshot) -> list[str]:
    return [each for each in after if before[each] != after[each]]


async def by_gocontrolplane(
    executable: Path, streams: int, resources: int, changes: int
) -> Figures:
    """By go-control-plane: from `SetSnapshot` to the last acknowledgement."""
    whole, compiler, found = topology(resources), Compiler(), Figures()
    now = contract(whole)
    before = compiler.snapshot(now, whole, FRONT.region, FRONT.workload)
    with tempfile.TemporaryDirectory(prefix="isthmus-bench-") as folder:
        socket = Path(folder) / "ads.sock"
        async with gocontrolplane.running(executable, socket) as server, asyncio.timeout(_PATIENCE):
            await server.serve("0", before, 0, [])
            empty = server.megabytes
            began = time.perf_counter()
            # Each stream is answered once for each type that it asks for.
            connected = asyncio.create_task(server.wait(streams, list(before)))
            async with sidecars(socket, streams, before):
                first = await connected
                found.connected = time.perf_counter() - began
                found.megabytes = server.megabytes - empty
                last = first
                for number in range(1, changes + 1):
                    now = with_callers(now, number)
                    after = compiler.snapshot(now, whole, FRONT.region, FRONT.workload)
                    last = await server.serve(str(number), after, streams, _differ(before, after))
                    found.applied.append(last.milliseconds)
                    before = after
                found.bytes_each = (last.bytes - first.bytes) / changes / streams
                used = last.processor_seconds - first.processor_seconds
                found.cpu_each = used / changes / streams * 1e6
    return found


async def by_sovereign(python: Path, streams: int, resources: int, changes: int) -> Figures:
    """By Sovereign: from the file that has the change to the last sidecar that has it."""
    whole, compiler, found = topology(resources), Compiler(), Figures()
    now = contract(whole)
    snapshot = compiler.snapshot(now, whole, FRONT.region, FRONT.workload)
    with tempfile.TemporaryDirectory(prefix="isthmus-bench-") as folder:
        file = Path(folder) / "resources.json"
        sovereign.write(discovered(now, whole, FRONT.region, FRONT.workload), file)
        async with sovereign.running(python, file) as port, asyncio.timeout(_PATIENCE):
            began = time.perf_counter()
            clients = sovereign.Sidecars(port, streams)
            try:
                for collection in sovereign.COLLECTIONS:
                    await clients.all_differ(collection, [""] * streams)
                found.connected = time.perf_counter() - began
                for number in range(1, changes + 1):
                    now = with_callers(now, number)
                    after = compiler.snapshot(now, whole, FRONT.region, FRONT.workload)
                    held = {
                        kind: clients.versions(kind)
                        for kind in map(sovereign.collection, _differ(snapshot, after))
                    }
                    ready = discovered(now, whole, FRONT.region, FRONT.workload)
                    started = time.perf_counter()
                    sent = clients.bytes
                    sovereign.write(ready, file)
                    for kind, versions in held.items():
                        await clients.all_differ(kind, versions)
                    found.applied.append((time.perf_counter() - started) * 1e3)
                    found.bytes_each = (clients.bytes - sent) / streams
                    snapshot = after
            finally:
                await clients.close()
    return found
