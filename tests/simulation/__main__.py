"""Runs seeds: `python -m tests.simulation --seeds 20000 --from 0`, or one: `--seeds 1 --from 42`.

Worlds of many regions: `--seeds 20 --least 60`, each of which takes about a minute.

Prints the shortest script found for each seed that fails, ready for `tests/scenarios`, and exits
with 1 then.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

from tests.simulation.plans import plan
from tests.simulation.shrink import failure, shrink

_PIECE = 50
_EVERY_SECONDS = 10


def failing(seeds: range, least: int, most: int) -> list[int]:
    """The seeds that fail, in worlds of so many regions."""
    return [seed for seed in seeds if failure(plan(seed, most, least_regions=least)) is not None]


def explain(seed: int, least: int, most: int) -> Iterator[str]:
    """What to print of a seed that fails."""
    lines = plan(seed, most, least_regions=least)
    first = failure(lines)
    if first is None:
        return
    short = shrink(lines)
    yield f"# Seed {seed} fails: {first}"
    yield f"# In short: {failure(short)}"
    yield from short


def main(arguments: list[str]) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation", description="Simulates regions under faults."
    )
    parser.add_argument("--seeds", type=int, default=20_000, help="how many seeds to run")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first seed")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--regions", type=int, default=100, help="the most regions of a world")
    parser.add_argument("--least", type=int, default=0, help="the fewest regions of a world")
    parser.add_argument("--show", action="store_true", help="print the first seed's script only")
    given = parser.parse_args(arguments)
    if given.show:
        print("\n".join(plan(given.first, given.regions, least_regions=given.least)))
        return 0
    end = given.first + given.seeds
    size = _PIECE if given.least < _PIECE else 1
    pieces = [range(at, min(end, at + size)) for at in range(given.first, end, size)]
    least, most = ([number] * len(pieces) for number in (given.least, given.regions))
    failed: list[int] = []
    done = 0
    started = said = time.monotonic()
    with ProcessPoolExecutor(given.jobs) as pool:
        for piece, found in zip(pieces, pool.map(failing, pieces, least, most), strict=True):
            done += len(piece)
            failed += found
            if found:
                print(f"failed: {' '.join(map(str, found))}", flush=True)
            now = time.monotonic()
            if now - said >= _EVERY_SECONDS or done == given.seeds:
                said = now
                rate = done / (now - started)
                print(f"{done} seeds, {len(failed)} failed, {rate:.0f}/s", flush=True)
    for seed in failed[:5]:
        print()
        print("\n".join(explain(seed, given.least, given.regions)), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
