"""Changes a second: written in eu, merged and durable in us, acknowledged to eu."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from tests.bench.replication.options import Options
from tests.bench.replication.payload import TWO_FIELDS
from tests.bench.replication.peers import debs, nats, postgres
from tests.bench.replication.regions import running
from tests.bench.rows import Row, row

BOTH = ("eu", "us")
ONES, FRAMES = "NATS mirror, a change a message", "NATS mirror, 512 changes a message"
POSTGRES = "PostgreSQL, logical replication"
_LEFT_OUT = (
    "whole, Zipf",
    "whole, uniform, through sidecars",
    "two of ten fields, uniform",
    "two of ten fields, contention, uniform",
    f"{POSTGRES}, Zipf",
)
"""What --quick does not do: its ways are all in others."""

Variant = Callable[[int], Awaitable[dict[str, float]]]
"""Measures once, given the number of the run."""


async def run(
    options: Options,
    distribution: str,
    *,
    fields: tuple[str, ...] = (),
    writers: tuple[str, ...] = ("eu",),
    sidecars: bool = False,
    check: bool = True,
) -> dict[str, float]:
    """One run between fresh regions; `writers` write the same keys at once.

    With `check` it compares what the regions hold in the end.

    Gives changes a second, and microseconds of processor time that each region took for one.
    """
    async with running(*BOTH, sidecars=sidecars) as regions:
        await regions["eu"].ask("fill", entities=options.entities)
        await regions.settle()
        for name in writers:
            await regions[name].ask(
                "prepare",
                numbers=distribution,
                entities=options.entities,
                seed=7,
                fields=list(fields),
            )
        if options.profile:
            await regions[options.profile].ask("profile", on=True)
        before = await regions.all("state")
        done = await asyncio.gather(
            *(
                regions[name].ask("load", seconds=options.seconds, **options.load)
                for name in writers
            )
        )
        after = await regions.all("state")
        if options.profile:
            file = str(options.profile_file)
            await regions[options.profile].ask("profile", on=False, file=file)
        await (regions.agree() if check else regions.settle())
    changes = sum(each["changes"] for each in done)
    lasted = max(each["ended"] for each in done) - min(each["started"] for each in done)
    found = {"rate": changes / lasted}
    for name, was, now in zip(BOTH, before, after, strict=True):
        found[f"processor of {name}"] = (now["cpu"] - was["cpu"]) / changes * 1e6
        found[f"processor of {name}, event loop"] = (now["loop"] - was["loop"]) / changes * 1e6
    return found


def _variants(options: Options) -> dict[str, Variant]:
    def ours(distribution: str, **given: Any) -> Variant:
        return lambda number: run(options, distribution, **given, check=number == 0)

    two: dict[str, Any] = {"fields": TWO_FIELDS}
    return {
        "whole, uniform": ours("uniform"),
        "whole, Zipf": ours("zipf"),
        "whole, uniform, through sidecars": ours("uniform", sidecars=True),
        "two of ten fields, uniform": ours("uniform", **two),
        "two of ten fields, contention, uniform": ours("uniform", **two, writers=BOTH),
        "two of ten fields, contention, Zipf": ours("zipf", **two, writers=BOTH),
        "two of ten fields, contention, uniform, through sidecars": ours(
            "uniform", **two, writers=BOTH, sidecars=True
        ),
        ONES: lambda _: nats.measure(1, options.seconds),
        FRAMES: lambda _: nats.measure(512, options.seconds),
        POSTGRES: lambda _: postgres.measure("uniform", options.seconds),
        f"{POSTGRES}, Zipf": lambda _: postgres.measure("zipf", options.seconds),
    }


async def section(options: Options) -> list[Row]:
    """All variants, interleaved."""
    chosen = {
        name: way
        for name, way in _variants(options).items()
        if options.chosen(name) and (not options.quick or name not in _LEFT_OUT)
    }
    found: dict[str, list[dict[str, float]]] = {name: [] for name in chosen}
    for number in range(options.runs):
        for name, way in chosen.items():
            try:
                found[name].append(await way(number))
            except debs.NoPeers as missing:
                print(f"{name}: skipped: {missing}")
                continue
            shown = ", ".join(f"{key} {value:.4g}" for key, value in found[name][-1].items())
            print(f"run {number + 1}: {name}: {shown}", flush=True)
    return _rows({name: runs for name, runs in found.items() if runs})


def _rows(found: dict[str, list[dict[str, float]]]) -> list[Row]:
    rates = {name: [each["rate"] for each in runs] for name, runs in found.items()}
    rows = []
    for name, runs in found.items():
        rows.append(row(name, rates[name], "changes/s"))
        if name.startswith("whole"):
            rows += [
                row(name, rates[name], "changes/s", (peer, rates[peer]))
                for peer in (ONES, FRAMES, POSTGRES)
                if peer in rates
            ]
        for key in sorted(runs[0].keys() - {"rate"}):
            rows.append(row(f"{name}: {key}", [each[key] for each in runs], "µs/change"))
    return rows
