"""Lag: from a write in eu until whoever watches us sees it, merged and durable there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from tests.bench.replication.options import Options
from tests.bench.replication.pacing import RATE
from tests.bench.replication.peers import debs, nats
from tests.bench.replication.regions import running
from tests.bench.rows import Row, percentile, row

PEER = "NATS mirror"


async def section(options: Options) -> list[Row]:
    """p50 and p99 at `RATE` changes a second, each of them a write of its own."""
    if not options.chosen("lag"):
        return []
    total = int(RATE * options.seconds)
    ways: dict[str, Callable[[], Awaitable[list[float]]]] = {
        "lag": lambda: run(total, sidecars=False),
        "lag through sidecars": lambda: run(total, sidecars=True),
        PEER: lambda: nats.lags(RATE, total),
    }
    found: dict[str, list[list[float]]] = {name: [] for name in ways}
    for _ in range(options.runs):
        for name, way in ways.items():
            try:
                found[name].append(await way())
            except debs.NoPeers as missing:
                print(f"{name}: skipped: {missing}")
    rows = []
    for percent in (50, 99):
        values = {
            name: [percentile(each, percent) for each in runs] for name, runs in found.items()
        }
        peer = (f"{PEER}, p{percent}", values[PEER]) if values[PEER] else None
        rows += [
            row(f"{name} at {RATE} changes/s, p{percent}", values[name], "ms", peer)
            for name in ("lag", "lag through sidecars")
        ]
        if values[PEER]:
            rows.append(row(f"{PEER}: lag at {RATE} changes/s, p{percent}", values[PEER], "ms"))
    return rows


async def run(total: int, *, sidecars: bool) -> list[float]:
    """The lag of each change in milliseconds."""
    async with running("eu", "us", sidecars=sidecars) as regions:
        await regions["us"].ask("watch", total=total)
        await regions["eu"].ask("pace", rate=RATE, total=total)
        found: list[float] = await regions["us"].ask("lags")
    return found
