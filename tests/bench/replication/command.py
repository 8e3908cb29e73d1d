"""The command line: ``python -m tests.bench replication [--only NAME] [--seconds S] ...``."""

from __future__ import annotations

import argparse
import asyncio
import pstats
from pathlib import Path

from tests.bench.replication import contract, throughput
from tests.bench.replication.payload import TWO_FIELDS
from tests.bench.rows import OUT, Row, report, row

VARIANTS = {
    "whole, uniform": {"distribution": "uniform"},
    "whole, zipf": {"distribution": "zipf"},
    "two fields, uniform": {"distribution": "uniform", "fields": TWO_FIELDS},
    "contention, uniform": {
        "distribution": "uniform",
        "fields": TWO_FIELDS,
        "writers": ("eu", "us"),
    },
    "contention, zipf": {"distribution": "zipf", "fields": TWO_FIELDS, "writers": ("eu", "us")},
}


def main(argv: list[str]) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench replication")
    parser.add_argument("--only", default="", help="variants whose name has this in it")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long each run writes")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--entities", type=int, default=100_000)
    parser.add_argument("--pack", type=int, default=512, help="things a write")
    parser.add_argument("--window", type=int, default=64, help="writes at a time")
    parser.add_argument("--profile", metavar="REGION", choices=("eu", "us"), default=None)
    options = parser.parse_args(argv)
    contract.compile_contract()
    chosen = {name: given for name, given in VARIANTS.items() if options.only in name}
    rows = asyncio.run(_measure(chosen, options))
    report("replication", rows)
    if options.profile:
        stats = pstats.Stats(str(_profile_file(options.profile)))
        stats.sort_stats("tottime").print_stats(45)
    return 0


def _profile_file(region: str) -> Path:
    return OUT / f"replication-{region}.pstats"


async def _measure(chosen: dict[str, dict], options: argparse.Namespace) -> list[Row]:
    OUT.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in chosen}
    for _ in range(options.runs):
        for name, given in chosen.items():
            once = await throughput.measure(
                **given,
                seconds=options.seconds,
                entities=options.entities,
                load={"pack": options.pack, "window": options.window},
                profile=options.profile and (options.profile, _profile_file(options.profile)),
            )
            print(name, {key: round(value, 2) for key, value in once.items()}, flush=True)
            found[name].append(once)
    rows = []
    for name, runs in found.items():
        rows.append(row(name, [each["rate"] for each in runs], "changes/s"))
        for region in ("eu", "us"):
            rows.append(
                row(f"{name}: processor of {region}", [r[f"cpu_{region}"] for r in runs], "µs")
            )
    return rows
