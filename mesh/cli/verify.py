"""`isthmus verify`: whether the regions hold the same, as each of them has proven."""

from __future__ import annotations

from datetime import UTC, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from mesh.cli.options import MESH, AsJson, MeshPath

if TYPE_CHECKING:
    from isthmus.replication.v1.digest_pb2 import Corruption

    from mesh.cli.proofs import Pair, Soundness
    from mesh.cli.standing import Standing

_RUNBOOK = "docs/runbooks/replication.md"

Region = Annotated[
    str, typer.Option("--region", "-r", help="Only pairs with this region.", metavar="REGION")
]
Workload = Annotated[
    str, typer.Option("--workload", "-w", help="Only this one's group.", metavar="WORKLOAD")
]
Within = Annotated[
    float,
    typer.Option(help="How old a proof may be.", metavar="SECONDS", min=0),
]


def verify(
    mesh: MeshPath = MESH,
    region: Region = "",
    workload: Workload = "",
    within: Within = 300,
    as_json: AsJson = False,
) -> int:
    """Shows up to where each pair of regions is proven equal, and what was found damaged.

    The regions compare themselves with one another all the time, range by range, while writes go
    on. Exits with 0 only if each pair is proven equal, that within the last `--within` seconds, and
    nothing damaged is left; with 1 if not; with 3 if no region answers.
    """
    from mesh.cli import output
    from mesh.cli.exits import CommandError, Exit
    from mesh.cli.proofs import pairs, soundness
    from mesh.cli.session import NOT_UP, run, session
    from mesh.cli.standing import ask

    async def look() -> list[Standing]:
        async with session(mesh, region) as opened:
            topology = opened.topology
            if region:
                topology.region(region)
            if workload and workload not in topology.workloads:
                raise CommandError(
                    f"there is no workload {workload!r}; "
                    f"there are {', '.join(sorted(topology.workloads))}",
                    Exit.NOT_FOUND,
                )
            found = await ask(topology, opened.layout.operator, topology.region_names)
            if not any(each.healthy for each in found):
                raise CommandError(NOT_UP, Exit.UNREACHABLE)
            return [each for each in found if not workload or each.workload == workload]

    limit = timedelta(seconds=within)
    standings = run(look())
    found = pairs(standings, region)
    states = [each for each in soundness(standings) if region in ("", each.region)]
    proven = all(pair.proven(limit) for pair in found)
    sound = all(each.found == each.repaired for each in states)
    if as_json:
        output.print_json(
            {
                "proven": proven,
                "sound": sound,
                "within_seconds": within,
                "pairs": [_as_json(pair, limit) for pair in found],
                "regions": [vars(each) for each in states],
            }
        )
    else:
        _show(found, states, limit)
    return Exit.OK if proven and sound else Exit.FAILED


def _as_json(pair: Pair, limit: timedelta) -> dict[str, object]:
    vector = pair.equal_up_to
    return {
        "group": pair.group,
        "regions": pair.regions,
        "proven": pair.proven(limit),
        "equal_up_to": None
        if vector is None
        else [
            {"region": region, "incarnation": str(incarnation), "sequence": sequence}
            for (region, incarnation), sequence in sorted(vector.items())
        ],
        "age_seconds": None if pair.age is None else pair.age.total_seconds(),
        "ranges_compared": pair.ranges_compared,
        "ranges_differed": pair.ranges_differed,
        "problem": pair.problem,
    }


def _show(found: list[Pair], states: list[Soundness], limit: timedelta) -> None:
    from mesh.cli import output

    output.print_table(
        ("GROUP", "PAIR", "EQUAL UP TO", "PROVEN", "RANGES", "DIFFERED"),
        (_row(pair, limit) for pair in found),
        "There is no pair of regions to compare.",
    )
    print()
    output.print_table(
        ("GROUP", "REGION", "FOUND DAMAGED", "REPAIRED", "READ AGAIN"),
        (
            (
                each.group,
                each.region,
                str(each.found),
                str(each.repaired),
                f"memory {each.memory_passes} times, disk {each.disk_passes} times",
            )
            for each in states
        ),
        "No region keeps a group.",
    )
    problems = [
        f"{pair.group}: {' and '.join(pair.regions)}: {_why(pair, limit)}"
        for pair in found
        if not pair.proven(limit)
    ]
    problems += [
        f"{each.group}: {each.region}: {_sentence(corruption)}"
        for each in states
        for corruption in each.corruptions
    ]
    if problems:
        print()
    for problem in problems:
        print(problem)
    if any(pair.equal_up_to is None for pair in found) or any(s.found > s.repaired for s in states):
        print(f"see {_RUNBOOK}")


def _row(pair: Pair, limit: timedelta) -> tuple[str, ...]:
    from mesh.cli import output

    age = "never" if pair.age is None else f"{output.duration(pair.age)} ago"
    return (
        pair.group,
        " = ".join(pair.regions) if pair.proven(limit) else " ? ".join(pair.regions),
        _up_to(pair),
        age,
        str(pair.ranges_compared),
        str(pair.ranges_differed),
    )


def _up_to(pair: Pair) -> str:
    """By region, how far its newest life is proven."""
    if pair.equal_up_to is None:
        return "-"
    newest: dict[str, int] = {}
    for (region, _), sequence in sorted(pair.equal_up_to.items()):
        newest[region] = sequence
    return ", ".join(f"{region} {sequence}" for region, sequence in newest.items()) or "nothing yet"


def _why(pair: Pair, limit: timedelta) -> str:
    from mesh.cli import output

    if pair.problem:
        return pair.problem
    return f"the proof is older than {output.duration(limit)}"


def _sentence(corruption: Corruption) -> str:
    from mesh.cli import output

    if corruption.HasField("frame"):
        origin = corruption.frame.origin
        what = f"frame {origin.region}#{origin.incarnation} at {corruption.frame.sequence}"
    else:
        what = f"{corruption.entity.type} {corruption.entity.key}"
    found = output.local_time(corruption.found.ToDatetime(tzinfo=UTC))
    if not corruption.HasField("repaired"):
        return f"NOT REPAIRED: {what}: {corruption.detail} (found {found})"
    took = corruption.repaired.ToDatetime() - corruption.found.ToDatetime()
    return f"repaired after {output.duration(took)}: {what}: {corruption.detail} (found {found})"
