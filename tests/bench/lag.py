"""Replication lag: from the write in one region until it is visible in another.

Two real workloads `channels` behind real sidecars, mTLS between them, no delay on the WAN. Each
change is a write of its own (group commit may share an fsync); visible means durable and merged.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mesh import topology as topologies
from mesh.agent import Sidecar
from mesh.contracts import load
from mesh.identity.spiffe import WorkloadId
from mesh.local.ports import claim_blocks
from mesh.local.wan import Wan
from mesh.place import Place
from tests.bench.rows import Row, percentile, row
from tests.e2e.sidecars import DOMAIN, SmallMesh

RUNS = 3
SECONDS = 8
RATES = (100, 1000)
_WORKLOADS = "authority, devices, channels, overview"


def measure() -> list[Row]:
    """Percentiles of the lag at each rate, over separate runs."""
    rows = []
    for rate in RATES:
        lags = [asyncio.run(_run(rate)) for _ in range(RUNS)]
        for percent in (50, 99):
            values = [percentile(each, percent) for each in lags]
            rows.append(row(f"lag at {rate} changes/s, p{percent}", values, "ms"))
    return rows


async def _run(rate: int) -> list[float]:
    state, run = (Path(tempfile.mkdtemp(prefix=name)) for name in ("isthmus-", "ist-"))
    claim = claim_blocks(2)
    small = SmallMesh(state, run, list(claim.bases))
    mesh_yaml = small.topology.path
    text = mesh_yaml.read_text()
    mesh_yaml.write_text(text.replace("alpha, beta, gamma", _WORKLOADS))
    topology = topologies.load(mesh_yaml)
    contract, wan = load(), Wan(topology)
    sidecars: list[Sidecar] = []
    processes: list[subprocess.Popen[bytes]] = []
    out = state / "lags.json"
    try:
        await wan.start()
        for region in topology.region_names:
            place = small.place(region, "channels")
            for folder in (place.run, place.data, place.logs):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            identity = WorkloadId(DOMAIN, region, "channels")
            small.credentials(identity, region).write(place.identity)
            processes.append(_workload(place, rate, out))
            sidecars.append(Sidecar(contract, topology, place))
            await sidecars[-1].start()
        await _until(out.exists)
        lags: list[float] = json.loads(out.read_text())
        return lags
    finally:
        for process in processes:
            process.terminate()
            process.wait(10)
        for sidecar in sidecars:
            await sidecar.kill()
        await wan.close()
        await small.close()
        shutil.rmtree(run)
        shutil.rmtree(state)
        claim.release()


def _workload(place: Place, rate: int, out: Path) -> subprocess.Popen[bytes]:
    variables = {
        "ISTHMUS_BENCH_RATE": str(rate),
        "ISTHMUS_BENCH_SECONDS": str(SECONDS),
        "ISTHMUS_BENCH_OUT": str(out),
    }
    with (place.logs / "service.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.bench.lag_workload"],
            env=os.environ | place.environment() | variables,
            stdout=log,
            stderr=log,
        )


async def _until(condition: object, seconds: float = 60 + SECONDS) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the receiving region did not see all changes")
        await asyncio.sleep(0.1)
