"""`isthmus members`: which regions belong to each replication group."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mesh.cli.options import MESH, AsJson, MeshPath, Prefer

if TYPE_CHECKING:
    from isthmus.replication.v1.members_pb2 import MembersStatus, MemberStatus

app = typer.Typer(
    help="Members: which regions belong to each replication group, and who decides it.",
    no_args_is_help=True,
)

RegionName = Annotated[str, typer.Argument(metavar="REGION", help="The region's name.")]
OfGroup = Annotated[
    list[str] | None,
    typer.Option("--group", "-g", help="Only this group; may be repeated.", metavar="GROUP"),
]


@app.command("list")
def list_members(
    mesh: MeshPath = MESH, region: Prefer = "", group: OfGroup = None, as_json: AsJson = False
) -> int:
    """Shows how the members of each group stand, as one region sees it.

    That is `--region`, or the first one that answers. Exits with 1 if a member is marked for
    eviction, or if changes of one come from the future.
    """
    from mesh.cli import output
    from mesh.cli.exits import Exit
    from mesh.cli.memberships import MARKS, remarks, state_of, statuses

    found = statuses(mesh, region, group)
    rows = [(status, member) for status in found for member in status.members]
    if as_json:
        output.print_json({"groups": found})
    else:
        output.print_table(
            ("GROUP", "REGION", "STATE", "COUNTS", "SILENT", "LACKS", "MARKED FOR"),
            (
                (
                    status.group,
                    member.member.region
                    + (" (home)" if member.member.region == status.home else ""),
                    state_of(member),
                    "yes" if member.counts else "no",
                    _silence(status, member),
                    output.size(member.held_bytes) if member.held_bytes else "-",
                    ", ".join(MARKS[mark] for mark in member.marks) or "-",
                )
                for status, member in rows
            ),
            "No workload of the mesh owns a replication group.",
        )
        for line in remarks(found):
            print(line)
    wrong = any(member.marks or member.HasField("early") for _, member in rows)
    return Exit.FAILED if wrong else Exit.OK


@app.command()
def evict(
    name: RegionName, mesh: MeshPath = MESH, group: OfGroup = None, as_json: AsJson = False
) -> None:
    """Goes on without a region that is silent for too long: nothing waits for it any more.

    Its links are refused until it is readmitted with `rejoin`. What it wrote alone is taken then.
    """
    _decide("Evict", name, mesh, group, as_json)


@app.command()
def rejoin(
    name: RegionName, mesh: MeshPath = MESH, group: OfGroup = None, as_json: AsJson = False
) -> None:
    """Readmits an evicted region, with all that it wrote meanwhile.

    It counts as a member again once it has handed that over and has caught up.
    """
    _decide("Rejoin", name, mesh, group, as_json)


@app.command()
def leave(
    name: RegionName, mesh: MeshPath = MESH, group: OfGroup = None, as_json: AsJson = False
) -> None:
    """Lets a region go for good: it takes no writes any more.

    It has left, and may be shut down, once `list` says LEFT: then all others have what it has.
    """
    _decide("Leave", name, mesh, group, as_json)


@app.command()
def join(
    name: RegionName, mesh: MeshPath = MESH, group: OfGroup = None, as_json: AsJson = False
) -> None:
    """Takes in again a region that left. A new region joins by being configured in `mesh.yaml`."""
    _decide("Join", name, mesh, group, as_json)


@app.command()
def home(
    to: Annotated[str, typer.Option(help="The region that decides from now on.")],
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Taken, not given: what the present home decides, or may have lost, is fenced.",
        ),
    ] = False,
    mesh: MeshPath = MESH,
    group: OfGroup = None,
    as_json: AsJson = False,
) -> None:
    """Moves the decisions about members to another region."""
    from mesh.cli.memberships import move_home

    _show(move_home(mesh, to, group, force=force), as_json)


@app.command()
def restore(
    name: RegionName,
    set_aside: Annotated[
        str,
        typer.Option(
            "--set-aside",
            help="First move this group's store away, which is damaged beyond repair.",
            metavar="GROUP",
        ),
    ] = "",
    mesh: MeshPath = MESH,
    as_json: AsJson = False,
) -> int:
    """Shows what a region's restored or lost store means, and how far it is with fetching.

    Before the region is started: what its peers will give back. After: which life it took, and
    what it fetched. Exits with 1 while something is to be fetched or decided.

    With `--set-aside` on the machine that holds the store, the region begins with an empty one when
    it starts next. Keep the other: what the region had acknowledged and never sent is in it alone,
    and so are values that stay in their home region.
    """
    from mesh.cli import output
    from mesh.cli.exits import Exit
    from mesh.cli.restoring import put_aside, reports

    if set_aside:
        where = put_aside(mesh, name, set_aside)
        if as_json:
            output.print_json({"region": name, "group": set_aside, "set_aside": str(where)})
        else:
            print(
                f"{set_aside}: the store of {name} is in {where} now; start {name}, and look how "
                f"far it is with `isthmus members restore {name}`"
            )
        return Exit.OK
    found = reports(mesh, name)
    if as_json:
        output.print_json({"region": name, "groups": [vars(report) for report in found]})
    else:
        for report in found:
            print(report.sentence)
    return Exit.OK if all(report.whole for report in found) else Exit.FAILED


def _decide(method: str, name: str, mesh: Path, group: list[str] | None, as_json: bool) -> None:
    from mesh.cli.memberships import decide

    _show(decide(mesh, method, name, group), as_json)


def _show(decided: list[tuple[str, MembersStatus]], as_json: bool) -> None:
    from mesh.cli import output
    from mesh.cli.memberships import state_of

    if as_json:
        return output.print_json({"groups": [status for _, status in decided]})
    for name, status in decided:
        for member in status.members:
            if member.member.region == name:
                print(
                    f"{status.group}: {name} is {state_of(member)}; decisions are taken in "
                    f"{status.home}"
                )
    return None


def _silence(status: MembersStatus, member: MemberStatus) -> str:
    from mesh.cli import output

    if member.member.region == status.region:
        return "-"
    if not member.HasField("silence"):
        return "never heard"
    return output.duration(member.silence.ToTimedelta())
