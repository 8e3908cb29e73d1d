"""The command line: ``python -m tests.bench mesh [--quick] [--only STREAMSxRESOURCES]``."""

from __future__ import annotations

import argparse
import asyncio

from tests.bench.mesh import changes
from tests.bench.rows import Row, report

CONDITIONS = """\
All on one machine, the simulated sidecars in one process of their own, over a Unix socket. Each
change gives one method of a workload another caller: the time is from the contract that has it to
the last stream's acknowledgement at the server, compilation included."""
STREAMS = (1, 50, 1000)
RESOURCES = (200, 1000)
_CHANGES = {1: 150, 50: 90, 1000: 15}


def main(argv: list[str]) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="tests.bench mesh", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few changes, up to 50 streams")
    parser.add_argument("--only", default="", help="such as 50x200")
    chosen = parser.parse_args(argv)
    print(CONDITIONS, flush=True)
    rows: list[Row] = []
    for streams in STREAMS:
        for resources in RESOURCES:
            named = f"{streams}x{resources}"
            if chosen.only not in ("", named) or (chosen.quick and streams > 50):
                continue
            count = 6 if chosen.quick else _CHANGES[streams]
            found = asyncio.run(changes.run(streams, resources, count))
            rows += changes.rows(streams, resources, found)
            print(f"{named}: {rows[-7].value:.3g} ms, p99 {rows[-6].value:.3g} ms", flush=True)
    if not rows:
        print(f"there is no {chosen.only!r}: write streams x resources, such as 50x200")
        return 2
    report("mesh-quick" if chosen.quick else "mesh", rows)
    return 0
