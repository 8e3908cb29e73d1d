"""The command line: ``python -m tests.bench replication [--only NAME] [--seconds S] ...``."""

from __future__ import annotations

import asyncio
import pstats

from tests.bench.replication import contract, growth, lag, local, options, outage, sizes, throughput
from tests.bench.replication.peers import debs, nats, postgres
from tests.bench.replication.plots import Curves
from tests.bench.rows import OUT, Row, report

CONDITIONS = f"""\
Two processors, all on one machine; medians of interleaved runs, each between fresh regions.
Isthmus: each commit fsynced (SQLite, synchronous=FULL) in both regions, merged by field, and
  acknowledged to the region that wrote. Its writers are inside the region's process.
NATS: {nats.DURABILITY}.
PostgreSQL: {postgres.DURABILITY}."""


def main(argv: list[str]) -> int:
    """The exit code."""
    chosen = options.parse(argv)
    OUT.mkdir(parents=True, exist_ok=True)
    debs.may_fetch = not chosen.quick
    contract.compile_contract()
    print(CONDITIONS, flush=True)
    rows = asyncio.run(_measure(chosen))
    if not rows:
        print(f"nothing has {chosen.only!r} in its name")
        return 2
    report("replication-quick" if chosen.quick else "replication", rows)
    if chosen.profile:
        stats = pstats.Stats(str(chosen.profile_file))
        stats.sort_stats("tottime").print_stats(45)
    return 0


async def _measure(chosen: options.Options) -> list[Row]:
    curves = Curves()
    rows = [
        *await throughput.section(chosen),
        *await lag.section(chosen),
        *await local.section(chosen),
        *sizes.section(chosen),
        *await growth.section(chosen, curves),
        *await outage.section(chosen, curves),
    ]
    curves.write(OUT / ("curves-quick" if chosen.quick else "curves"))
    return rows
