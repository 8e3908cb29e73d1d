"""Runs seeds: `python -m tests.simulation --seeds 20000 --from 0`, or one: `--seeds 1 --from 42`.

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


def failing(seeds: range, most_regions: int) -> list[int]:
    """The seeds that fail."""
    return [seed for seed in seeds if failure(plan(seed, most_regions)) is not None]


def explain(seed: int, most_regions: int) -> Iterator[str]:
    """What to print of a seed that fails."""
    first = failure(plan(seed, most_regions))
    if first is None:
        return
    short = shrink(plan(seed, most_regions))
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
    parser.add_argument("--show", action="store_true", help="print the first seed's script only")
    given = parser.parse_args(arguments)
    if given.show:
        print("\n".join(plan(given.first, given.regions)))
        return 0
    end = given.first + given.seeds
    pieces = [range(at, min(end, at + _PIECE)) for at in range(given.first, end, _PIECE)]
    failed: list[int] = []
    done = 0
    started = said = time.monotonic()
    with ProcessPoolExecutor(given.jobs) as pool:
        for piece, found in zip(
            pieces, pool.map(failing, pieces, [given.regions] * len(pieces)), strict=True
        ):
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
        print("\n".join(explain(seed, given.regions)), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
