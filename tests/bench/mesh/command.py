"""The command line: ``python -m tests.bench mesh [--quick] [--only STREAMSxRESOURCES|calls]``."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import median

from tests.bench.mesh import against, changes, hops
from tests.bench.mesh.changes import Figures
from tests.bench.mesh.peers import NoPeer, gocontrolplane, sovereign
from tests.bench.rows import Row, percentile, report, row

CONDITIONS = """\
All on one machine, the simulated sidecars in one process of their own. Each change gives one method
of a workload another caller. Isthmus: from the contract that has it to the last stream's
acknowledgement at the server, compilation included ("served": without it). go-control-plane: the
same streams over the same kind of socket, from ready resources. Sovereign: from a file with ready
resources until the last sidecar has polled it; each asks once a second for each type, as Envoy
does. Calls: of one caller, one after the other, to one application. Runs take turns."""
STREAMS = (1, 50, 1000)
RESOURCES = (200, 1000)
ROUNDS = 3
_CHANGES = {1: 50, 50: 30, 1000: 10}
"""In each round."""
_POLLED_CHANGES = {1: 5, 50: 3}
"""Of what is polled; a thousand sidecars are more polls than it answers."""

Run = Callable[[int, int, int], Coroutine[None, None, Figures]]


@dataclass
class _Runs:
    """What is measured, and what came of it."""

    name: str
    run: Run
    changes: dict[int, int]
    found: list[Figures] = field(default_factory=list)


def main(argv: list[str]) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="tests.bench mesh", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few changes, up to 50 streams")
    parser.add_argument("--only", default="", help="such as 50x200, or calls")
    parser.add_argument("--alone", action="store_true", help="without other control planes")
    chosen = parser.parse_args(argv)
    print(CONDITIONS, flush=True)
    # Before anything is measured: getting them is work for the machine.
    others = [] if chosen.alone or chosen.only == "calls" else asyncio.run(_others())
    rows: list[Row] = []
    for streams in STREAMS:
        for resources in RESOURCES:
            named = f"{streams}x{resources}"
            if chosen.only not in ("", named) or (chosen.quick and streams > 50):
                continue
            runs = [_Runs("isthmus", changes.run, _CHANGES), *(_Runs(*each) for each in others)]
            for _ in range(1 if chosen.quick else ROUNDS):
                _round(
                    [each for each in runs if streams in each.changes], streams, resources, chosen
                )
            rows += _rows(f"{streams} streams, {resources} resources", runs)
            print(f"{named}: " + ", ".join(_brief(each) for each in runs if each.found), flush=True)
    if chosen.only in ("", "calls"):
        rows += hops.measure(2) if chosen.quick else hops.measure()
    if not rows:
        print(f"there is no {chosen.only!r}: write calls, or streams x resources, such as 50x200")
        return 2
    # A part does not overwrite the whole.
    parts = ("mesh", "quick" if chosen.quick else "", chosen.only)
    report("-".join(filter(None, parts)), rows)
    return 0


async def _others() -> list[tuple[str, Run, dict[int, int]]]:
    """The peers that can be had here."""
    found: list[tuple[str, Run, dict[int, int]]] = []
    try:
        run = partial(against.by_gocontrolplane, await gocontrolplane.built())
        found.append((gocontrolplane.NAME, run, _CHANGES))
    except NoPeer as reason:
        print(f"without go-control-plane: {reason}", flush=True)
    try:
        run = partial(against.by_sovereign, await sovereign.installed())
        found.append((sovereign.NAME, run, _POLLED_CHANGES))
    except NoPeer as reason:
        print(f"without Sovereign: {reason}", flush=True)
    return found


def _round(runs: Sequence[_Runs], streams: int, resources: int, chosen: argparse.Namespace) -> None:
    for each in runs:
        count = min(3, each.changes[streams]) if chosen.quick else each.changes[streams]
        each.found.append(asyncio.run(each.run(streams, resources, count)))


def _brief(runs: _Runs) -> str:
    return f"{runs.name} {median(c for f in runs.found for c in f.applied):.3g} ms"


def _rows(label: str, runs: Sequence[_Runs]) -> list[Row]:
    """Of Isthmus, then of each peer, with the ratio of Isthmus to it."""
    ours = runs[0]
    rows = _own(label, ours)
    served = [
        percentile([a - c for a, c in zip(f.applied, f.compiled, strict=True)], 50)
        for f in ours.found
    ]
    rows.append(row(f"of it served, {label}, p50", served, "ms"))
    for peer in runs[1:]:
        if not peer.found:
            continue
        if peer.name == gocontrolplane.NAME:
            metric = f"served to last ACK, {label}, p50, isthmus / {peer.name}"
            rows.append(row(metric, served, "ms", (peer.name, _percentiles(peer, 50))))
        for percent in (50, 99):
            metric = f"change to last ACK, {label}, p{percent}, {peer.name}"
            values = _percentiles(peer, percent)
            rows.append(row(metric, values, "ms"))
            ratio = f"change to last ACK, {label}, p{percent}, isthmus / {peer.name}"
            mine = _percentiles(ours, percent)
            rows.append(row(ratio, mine, "ms", (peer.name, values)))
        sent = [each.bytes_each for each in peer.found]
        rows.append(row(f"sent to each stream for a change, {label}, {peer.name}", sent, "B"))
        if any(each.cpu_each for each in peer.found):
            used = [each.cpu_each for each in peer.found]
            metric = f"server's processor for each stream's change, {label}, {peer.name}"
            rows.append(row(metric, used, "µs"))
            held = [each.megabytes for each in peer.found]
            rows.append(row(f"server's memory for all streams, {label}, {peer.name}", held, "MB"))
    return rows


def _own(label: str, runs: _Runs) -> list[Row]:
    found = runs.found
    return [
        row(f"change to last ACK, {label}, p50", _percentiles(runs, 50), "ms"),
        row(f"change to last ACK, {label}, p99", _percentiles(runs, 99), "ms"),
        row(f"of it compiling, {label}", [median(f.compiled) for f in found], "ms"),
        row(f"sent to each stream for a change, {label}", [f.bytes_each for f in found], "B"),
        row(
            f"server's processor for each stream's change, {label}",
            [f.cpu_each for f in found],
            "µs",
        ),
        row(f"all connected and served, {label}", [f.connected for f in found], "s"),
        row(f"server's memory for all streams, {label}", [f.megabytes for f in found], "MB"),
    ]


def _percentiles(runs: _Runs, percent: float) -> list[float]:
    return [percentile(each.applied, percent) for each in runs.found]
