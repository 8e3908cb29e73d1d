"""How cost and memory grow: with changes, with entities, with regions, and while a peer is stalled.

Cost is processor time of the regions' processes, so that it does not depend on how many run at
once on two processors.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from tests.bench.replication.options import Options
from tests.bench.replication.plots import Curves
from tests.bench.replication.regions import running
from tests.bench.rows import Row, row

CHANGES = 10_000_000
ENTITIES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
REGIONS = ("eu", "us", "ap", "sa", "af")
STALLED_SECONDS = 20.0
_SAMPLES = 20
_MOST_SECONDS = 180.0
"""For making entities; a size that would take longer is left out, and said so."""

_MEMORY_SHARE = 0.6
"""Of the machine's free memory, how much the next size may take by the measure of the last."""


async def section(options: Options, curves: Curves) -> list[Row]:
    """All four."""
    rows = []
    for name, measure in (
        ("memory over changes", _changes),
        ("memory while a peer is stalled", _stalled),
        ("cost by entities", _entities),
        ("cost by regions", _regions),
    ):
        if options.chosen(name):
            rows += await measure(options, curves)
            print(f"{name}: done", flush=True)
    return rows


async def _changes(options: Options, curves: Curves) -> list[Row]:
    """Memory of both regions over ten million changes to the same entities."""
    target = 2_000 if options.quick else CHANGES
    written = 0
    curve: list[tuple[float, float, float]] = []
    async with running("eu", "us") as regions:
        eu = regions["eu"]
        await eu.ask("fill", entities=options.entities)
        await regions.settle()
        await eu.ask("prepare", numbers="uniform", entities=options.entities, seed=7)
        while written < target:
            at_most = (target - written) if options.quick else target // _SAMPLES
            done = await eu.ask("load", changes=at_most, **options.load)
            written += done["changes"]
            curve.append((written, regions["eu"].memory(), regions["us"].memory()))
    curves.add(
        "memory-over-changes",
        "Memory over changes",
        ("changes", "MB"),
        {"writes": [(x, y) for x, y, _ in curve], "follows": [(x, y) for x, _, y in curve]},
    )
    half = curve[len(curve) // 2]
    return [
        row(f"memory of {name} after {written:,} changes", [curve[-1][at]], "MB",
            (f"after {half[0]:,.0f}", [half[at]]))
        for at, name in ((1, "eu"), (2, "us"))
    ]  # fmt: skip


async def _stalled(options: Options, curves: Curves) -> list[Row]:
    """Memory of a region that goes on writing while its peer's process is paused."""
    lasts = 1.0 if options.quick else STALLED_SECONDS
    async with running("eu", "us") as regions:
        eu, us = regions["eu"], regions["us"]
        await eu.ask("fill", entities=options.entities)
        await regions.settle()
        await eu.ask("prepare", numbers="uniform", entities=options.entities, seed=7)
        # First as much without it, so that only the stall is new.
        await eu.ask("load", seconds=lasts / 4, **options.load)
        curve = [(0.0, eu.memory())]
        written = 0
        os.kill(us.pid, signal.SIGSTOP)
        try:
            for _ in range(10):
                done = await eu.ask("load", seconds=lasts / 10, durable="region", **options.load)
                written += done["changes"]
                curve.append((written, eu.memory()))
        finally:
            os.kill(us.pid, signal.SIGCONT)
        started = time.monotonic()
        await regions.settle()
        caught_up = written / (time.monotonic() - started)
        await regions.agree()
    curves.add(
        "memory-with-a-stalled-peer",
        "Memory of the writer while its peer is stalled",
        ("changes since", "MB"),
        {"writes": curve},
    )
    return [
        row("memory of eu before a stall", [curve[0][1]], "MB"),
        row(f"memory of eu after {written:,} changes of a stall", [curve[-1][1]], "MB",
            ("before", [curve[0][1]])),
        row("catching up after a stall", [caught_up], "changes/s"),
    ]  # fmt: skip


async def _entities(options: Options, curves: Curves) -> list[Row]:
    """Processor time for a change, in both regions together, by how many entities there are."""
    sizes = ENTITIES[:1] if options.quick else ENTITIES
    points: list[tuple[float, float]] = []
    memory: list[tuple[float, float]] = []
    per_entity = seconds = 0.0
    rows = []
    for size in sizes:
        if per_entity * size > _free_mb() * _MEMORY_SHARE:
            print(f"cost by entities: {size:,} would not fit into this machine's memory")
            break
        if seconds * 10 > _MOST_SECONDS:
            print(f"cost by entities: {size:,} would take more than {_MOST_SECONDS:.0f} s to make")
            break
        async with running("eu", "us") as regions:
            empty = sum(process.memory() for process in regions.processes.values())
            started = time.monotonic()
            await regions["eu"].ask("fill", entities=size)
            await regions.settle()
            seconds = time.monotonic() - started
            taken = sum(process.memory() for process in regions.processes.values()) - empty
            per_entity = max(0.0, taken) / size
            await regions["eu"].ask("prepare", numbers="uniform", entities=size, seed=7)
            before = await regions.all("state")
            done = await regions["eu"].ask("load", seconds=options.seconds, **options.load)
            after = await regions.all("state")
        cpu = sum(b["cpu"] - a["cpu"] for a, b in zip(before, after, strict=True))
        cost = cpu / done["changes"] * 1e6
        points.append((size, cost))
        memory.append((size, taken))
        rate = done["changes"] / (done["ended"] - done["started"])
        rows += [
            row(f"cost at {size:,} entities", [cost], "µs/change",
                (f"at {sizes[0]:,}", [points[0][1]])),
            row(f"changes at {size:,} entities", [rate], "changes/s"),
            row(f"memory for {size:,} entities, both regions", [taken], "MB"),
        ]  # fmt: skip
    curves.add(
        "cost-by-entities",
        "Processor time for a change, by entities",
        ("entities", "µs"),
        {"both regions": points},
        logarithmic=True,
    )
    curves.add(
        "memory-by-entities",
        "Memory by entities",
        ("entities", "MB"),
        {"both regions": memory},
        logarithmic=True,
    )
    return rows


async def _regions(options: Options, curves: Curves) -> list[Row]:
    """Processor time for a change, in all regions together, by how many there are."""
    points: list[tuple[float, float]] = []
    rows = []
    for count in (2, 3) if options.quick else range(2, len(REGIONS) + 1):
        async with running(*REGIONS[:count]) as regions:
            await regions["eu"].ask("fill", entities=options.entities)
            await regions.settle()
            await regions["eu"].ask("prepare", numbers="uniform", entities=options.entities, seed=7)
            before = await regions.all("state")
            done = await regions["eu"].ask("load", seconds=options.seconds, **options.load)
            await regions.settle()
            after = await regions.all("state")
        cpu = sum(b["cpu"] - a["cpu"] for a, b in zip(before, after, strict=True))
        points.append((count, cpu / done["changes"] * 1e6))
        # A straight line through the first two.
        step = points[1][1] - points[0][1] if len(points) > 1 else 0.0
        line = ("a straight line", [points[0][1] + step * (count - 2)])
        rows.append(row(f"cost in {count} regions together", [points[-1][1]], "µs/change", line))
    curves.add(
        "cost-by-regions",
        "Processor time for a change, by regions",
        ("regions", "µs"),
        {"all regions together": points},
    )
    return rows


def _free_mb() -> float:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) / 1024
    return 0.0
