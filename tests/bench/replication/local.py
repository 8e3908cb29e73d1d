"""Writes that are durable in their own region, as a client sees them: one by one, and packed."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path

from mesh.place import Place
from tests.bench.replication import contract
from tests.bench.replication.client import Calls
from tests.bench.replication.options import Options
from tests.bench.replication.regions import Process, hosted
from tests.bench.rows import Row, row
from tests.e2e.sidecars import DOMAIN

CALLERS = 64
PACKS = {32: 4, 256: 1}
"""Things a message, and how many streams write at once, each with two messages under way."""

_CALLER = f"spiffe://{DOMAIN}/region/eu/workload/{contract.CLIENT}"
_TOPOLOGY = f"""
version: 1
trust_domain: {DOMAIN}
regions:
  - {{name: eu, host: 127.0.0.1, base_port: 20000}}
workloads: [{contract.WORKLOAD}]
media: {{root: media, origin: "127.0.0.1:20099"}}
"""


@asynccontextmanager
async def alone() -> AsyncIterator[tuple[Process, Place]]:
    """The real workload in a single region, without a sidecar."""
    root = Path(tempfile.mkdtemp(prefix="ist-"))
    (root / "mesh.yaml").write_text(_TOPOLOGY)
    place = Place("eu", contract.WORKLOAD, root / "mesh.yaml", root / "run", root / "state")
    region = hosted(place)
    try:
        await region.start()
        yield region, place
    finally:
        await region.stop()
        shutil.rmtree(root)


async def section(options: Options) -> list[Row]:
    """Unary against an empty method, with the same interceptors and bare; packed streams."""
    if not options.chosen("local"):
        return []
    unary = {"bare": "Empty", "empty": "Empty", "write": "Write"}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in unary}
    found |= {f"packed {pack}": [] for pack in PACKS}
    async with alone() as (region, place):
        await region.ask("fill", entities=options.entities, durable="region")
        for _ in range(options.runs):
            for name, method in unary.items():
                socket = place.run / "bare.sock" if name == "bare" else place.app_socket
                calls = Calls(
                    str(socket), _CALLER, method, CALLERS, options.seconds, options.entities
                )
                found[name].append(await _measured(calls))
            for pack, streams in PACKS.items():
                calls = Calls(
                    str(place.app_socket),
                    _CALLER,
                    "WriteMany",
                    streams,
                    options.seconds,
                    options.entities,
                    pack,
                )
                found[f"packed {pack}"].append(await _measured(calls))
    return _rows(found)


async def _measured(calls: Calls) -> dict[str, float]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.bench.replication.client",
        json.dumps(asdict(calls)),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"the client of {calls.method} failed")
    found: dict[str, float] = json.loads(output)
    return found


def _rows(found: dict[str, list[dict[str, float]]]) -> list[Row]:
    rates = {name: [each["rate"] for each in runs] for name, runs in found.items()}
    empty = ("an empty method, same interceptors", rates["empty"])
    rows = [
        row("local, empty method of bare grpcio", rates["bare"], "calls/s"),
        row("local, empty method, same interceptors", rates["empty"], "calls/s"),
        row("local, unary durable write", rates["write"], "calls/s", empty),
        row("local, unary durable write", rates["write"], "calls/s", ("bare", rates["bare"])),
    ]
    for name in ("empty", "write", *(f"packed {pack}" for pack in PACKS)):
        if name.startswith("packed"):
            rows.append(row(f"local, {name} a message", rates[name], "writes/s"))
        shown = f"{name} a message" if name.startswith("packed") else name
        for percent in ("p50", "p99"):
            values = [each[percent] for each in found[name]]
            rows.append(row(f"local, {shown}, {percent}", values, "ms"))
    return rows
