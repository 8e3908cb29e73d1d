"""Runs regions as processes under load and faults, and judges what their clients were told.

A control run without faults comes first, then one for each kind of fault, then all at once. It
prints what was done and checked, keeps histories and logs in build/faults/<seed>/, and exits with 1
if anything is wrong, with 2 if it could not run.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import secrets
import sys
from pathlib import Path

from tests.faults import namespaces
from tests.faults.bugs import BUGS
from tests.faults.nemesis import KINDS
from tests.faults.processes import RegionFailed
from tests.faults.runs import Plan, Verdict, run
from tests.faults.wan import Network

NETWORKS = {"wan": Network, "namespaces": namespaces.Namespaces}
_SHOWN = 3
"""How many findings of a check are printed."""


def plans(given: argparse.Namespace) -> list[Plan]:
    """What the arguments ask for."""
    kinds = tuple(given.faults.split(","))
    runs: dict[str, tuple[str, ...]] = {"control": ()}
    if not given.control:
        runs |= {kind: (kind,) for kind in kinds} if not given.together else {}
        runs |= {"together": kinds} if len(kinds) > 1 else {}
    folder = Path("build/faults") / str(given.seed)
    return [
        Plan(
            name,
            given.seed,
            given.seconds,
            chosen,
            given.regions,
            folder / name,
            given.bug,
            NETWORKS[given.network],
        )
        for name, chosen in runs.items()
    ]


def choose_network(wanted: str) -> tuple[str, str]:
    """The network to use, and in words why: namespaces where they work, unless one is wanted."""
    if wanted:
        return wanted, NETWORKS[wanted].name
    try:
        namespaces.check()
    except namespaces.NotPossible as error:
        return "wan", f"{Network.name}, for there are no others here: {error}"
    return "namespaces", namespaces.Namespaces.name


def row(verdict: Verdict) -> str:
    """A line of the table."""
    counts = " ".join(f"{number:>12}" for number in verdict.counts.values())
    healed = f"{verdict.healed_seconds:.1f} s"
    word = "holds" if verdict.holds else "BROKEN"
    return f"{verdict.plan.name:<10}{counts} {healed:>9}  {word}"


def _arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    add = parser.add_argument
    add("--seconds", type=float, default=20.0, help="how long each run is under load (%(default)s)")
    add("--seed", type=int, default=secrets.randbelow(1_000_000), help="what draws load and faults")
    add("--faults", default=",".join(KINDS), help="kinds, with commas between (%(default)s)")
    add("--regions", type=int, default=3, help="how many regions (%(default)s)")
    add("--control", action="store_true", help="the control run alone")
    add("--together", action="store_true", help="the control run, and one with all kinds at once")
    add("--network", default="", choices=["", *NETWORKS], help="default: namespaces if they work")
    add("--bug", default="", choices=["", *BUGS], help="a seeded bug that is to be found")
    given = parser.parse_args(arguments)
    unknown = set(given.faults.split(",")) - set(KINDS)
    if unknown:
        parser.error(f"no such fault: {', '.join(sorted(unknown))}; there are {', '.join(KINDS)}")
    if given.regions < 2:
        parser.error("--regions: a group has two regions or more")
    return given


def main(arguments: list[str]) -> int:
    """The exit code."""
    # The WAN writes to connections that it has just reset, as is meant; asyncio warns of each.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    given = _arguments(arguments)
    given.network, network = choose_network(given.network)
    print(f"seed {given.seed}, {given.regions} regions; network: {network}", flush=True)
    verdicts: list[Verdict] = []
    for plan in plans(given):
        try:
            verdict = asyncio.run(run(plan))
        except namespaces.NotPossible as error:
            print(f"no network namespaces here: {error}", file=sys.stderr)
            return 2
        except RegionFailed as error:
            print(f"{plan.name} could not begin: {error}", file=sys.stderr)
            return 2
        if not verdicts:
            head = " ".join(f"{name:>12}" for name in verdict.counts)
            print(f"{'run':<10}{head} {'healed in':>9}")
        verdicts.append(verdict)
        print(row(verdict), flush=True)
        for check, found in verdict.violations.items():
            for text in found[:_SHOWN]:
                print(f"    {check}: {text[:500]}")
            if len(found) > _SHOWN:
                print(f"    {check}: and {len(found) - _SHOWN} more")
    broken = [verdict for verdict in verdicts if not verdict.holds]
    checks = list(verdicts[0].violations)
    print(f"checked after each: {', '.join(checks)}")
    for verdict in broken:
        print(f"{verdict.plan.name}: history and logs are in {verdict.plan.folder}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
