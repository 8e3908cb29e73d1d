"""A unary call: straight to the application's socket, and through both sidecars with mTLS."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from pathlib import Path

import grpc

from mesh.local.ports import claim_blocks
from tests.bench.rows import Row, percentile, row
from tests.e2e.sidecars import SmallMesh, call

ROUNDS = 7
CALLS = 400


def measure() -> list[Row]:
    """Latency of one caller, in interleaved rounds."""
    return asyncio.run(_measure())


async def _measure() -> list[Row]:
    state, run = (Path(tempfile.mkdtemp(prefix=name)) for name in ("isthmus-", "ist-"))
    claim = claim_blocks(2)
    small = SmallMesh(state, run, list(claim.bases))
    try:
        await small.start(("eu", "beta"), ("eu", "alpha"))
        socket = small.place("eu", "beta").app_socket
        ways = {
            "direct": grpc.aio.insecure_channel(f"unix:{socket}"),
            "sidecars": small.egress("eu", "alpha"),
        }
        samples: dict[str, list[list[float]]] = {name: [] for name in ways}
        for channel in ways.values():
            await _round(channel)  # connections, and warm code
        for _ in range(ROUNDS):
            for name, channel in ways.items():
                samples[name].append(await _round(channel))
        await ways["direct"].close()
    finally:
        await small.close()
        shutil.rmtree(run)
        shutil.rmtree(state)
        claim.release()
    rows = []
    for percent in (50, 99):
        direct = [percentile(each, percent) for each in samples["direct"]]
        sidecars = [percentile(each, percent) for each in samples["sidecars"]]
        rows += [
            row(f"unary call, direct, p{percent}", direct, "ms"),
            row(f"unary call, two sidecars, p{percent}", sidecars, "ms", ("direct", direct)),
        ]
    return rows


async def _round(channel: grpc.aio.Channel) -> list[float]:
    taken = []
    for _ in range(CALLS):
        started = time.perf_counter()
        await call(channel, "Echo")
        taken.append((time.perf_counter() - started) * 1000)
    return taken
