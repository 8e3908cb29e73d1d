"""After an outage: how long a killed region takes to be back, and how fast it catches up."""

from __future__ import annotations

import time

from tests.bench.replication.options import Options
from tests.bench.replication.plots import Curves
from tests.bench.replication.regions import running
from tests.bench.rows import Row, row

JOURNALS = (0, 10_000, 100_000, 300_000, 1_000_000)
OUTAGE_SECONDS = 10.0
_MOST_SECONDS = 60.0
"""Of writing before one kill; a longer journal than that gives is left out."""


async def section(options: Options, curves: Curves) -> list[Row]:
    """Both."""
    rows = []
    if options.chosen("recovery after kill -9"):
        rows += await _recovery(options, curves)
    if options.chosen("catch-up after an outage"):
        rows += await _catch_up(options)
    return rows


async def _recovery(options: Options, curves: Curves) -> list[Row]:
    """From the start of the store's recovery until the group takes writes, by journal length."""
    points: list[tuple[float, float]] = []
    rows = []
    for changes in (0, 1_000) if options.quick else JOURNALS:
        async with running("eu") as regions:
            eu = regions["eu"]
            started = time.monotonic()
            if changes:
                await eu.ask("fill", entities=min(options.entities, changes), durable="region")
                await eu.ask("prepare", numbers="uniform", entities=options.entities, seed=7)
                await eu.ask("load", changes=changes, durable="region", **options.load)
            state = await eu.ask("digest")
            written = sum(n for *_, n in state["vector"])
            too_long = time.monotonic() - started > _MOST_SECONDS
            await eu.kill()
            opened = (await eu.start())["opened"]
            after = await eu.ask("digest")
        if after != state:
            raise RuntimeError("a killed region did not come back with what it had acknowledged")
        points.append((written, opened))
        rows.append(row(f"recovery after kill -9, journal of {written:,} changes", [opened], "s"))
        if too_long:
            print(f"recovery: journals longer than {written:,} changes were left out")
            break
    curves.add(
        "recovery-by-journal",
        "Recovery after kill -9, by the journal's length",
        ("changes in the journal", "s"),
        {"one region": points},
    )
    return rows


async def _catch_up(options: Options) -> list[Row]:
    """What us missed while it was down: changes a second from its start until all are durable."""
    rates, from_link = [], []
    for _ in range(min(options.runs, 3)):
        async with running("eu", "us") as regions:
            eu, us = regions["eu"], regions["us"]
            await eu.ask("fill", entities=options.entities)
            await regions.settle()
            await us.kill()
            await eu.ask("prepare", numbers="uniform", entities=options.entities, seed=7)
            lasts = options.seconds if options.quick else OUTAGE_SECONDS
            done = await eu.ask("load", seconds=lasts, durable="region", **options.load)
            started = time.monotonic()
            await us.start()
            await us.ask("linked")
            linked = time.monotonic()
            await regions.settle()
            ended = time.monotonic()
            await regions.agree()
        rates.append(done["changes"] / (ended - started))
        from_link.append(done["changes"] / (ended - linked))
    return [
        row("catch-up after an outage, from the process's start", rates, "changes/s"),
        row("catch-up after an outage, from the link's first word", from_link, "changes/s"),
    ]
