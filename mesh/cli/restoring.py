"""What a region's restored or lost store means, by its own word and that of its peers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from isthmus.replication.v1 import member_pb2, members_pb2
from isthmus.replication.v1.members_pb2 import MembersStatus, MemberStatus

from mesh.cli.exits import CommandError, Exit
from mesh.cli.failures import explain
from mesh.cli.memberships import owners, state_of, statuses
from mesh.local.layout import Layout
from mesh.replication import set_aside
from mesh.replication.errors import StoreLocked
from mesh.topology import load

_STARTS = {
    members_pb2.LIFE_START_EMPTY_STORE: "began with an empty store",
    members_pb2.LIFE_START_CONTINUED: "goes on with the life that its store held",
    members_pb2.LIFE_START_UNCONFIRMED: (
        "took a new incarnation, since a write came before its peers had confirmed its store"
    ),
    members_pb2.LIFE_START_RESTORED_BACKUP: (
        "took a new incarnation, since its peers knew more of it than its store"
    ),
    members_pb2.LIFE_START_DAMAGED_JOURNAL: (
        "took a new incarnation, since its journal was damaged and had to be cut"
    ),
}


@dataclass(frozen=True)
class Report:
    """How one group stands in the region: `fetched` and `missing` count changes of its own.

    `missing` is what some peer has of it, and it has not.
    """

    group: str
    running: bool
    state: str
    start: str
    fetched: int
    missing: int
    sentence: str

    @property
    def whole(self) -> bool:
        """Whether nothing is left to fetch or to decide."""
        return self.running and not self.missing and self.state == "JOINED"


def reports(mesh: Path, region: str) -> list[Report]:
    """How each group stands. Raises `CommandError` if no peer answers either."""
    topology = load(mesh)
    topology.region(region)
    peers = [_asked(mesh, name) for name in topology.region_names if name != region]
    own = _asked(mesh, region)  # the last one: what it writes meanwhile is not missing there
    groups = list(dict.fromkeys(group for each in (own, *peers) for group in each))
    if not groups:
        raise CommandError(
            f"neither {region} nor any other region answers: start the mesh, or one of its regions",
            Exit.UNREACHABLE,
        )
    return [_report(region, group, own.get(group), peers) for group in groups]


def put_aside(mesh: Path, region: str, group: str) -> Path:
    """Moves a group's store out of a region's way, on this machine. Returns where it is.

    Raises `CommandError` if there is none, or if a process has it open.
    """
    topology = load(mesh)
    workload = owners(mesh, [group])[group]
    folder = Layout.of(topology).place(topology.region(region).name, workload).data
    try:
        aside = set_aside(folder, group) if folder.exists() else None
    except StoreLocked as error:
        raise CommandError(str(error), Exit.CONFLICT) from None
    if aside is None:
        raise CommandError(
            f"{folder} holds no store of {group}: run this on the machine that does",
            Exit.NOT_FOUND,
        )
    return aside


def _asked(mesh: Path, region: str) -> Mapping[str, MembersStatus]:
    try:
        return {status.group: status for status in statuses(mesh, region, None, only=True)}
    except Exception as error:
        explained = explain(error)
        if explained is None or explained[1] is not Exit.UNREACHABLE:
            raise
        return {}


def _report(
    region: str,
    group: str,
    own: MembersStatus | None,
    peers: list[Mapping[str, MembersStatus]],
) -> Report:
    known: dict[int, int] = {}
    decided = member_pb2.Member(region=region, state=member_pb2.MEMBER_STATE_JOINED)
    for peer in peers:
        if group in peer:
            there = _member(peer[group], region)
            decided = max(decided, there.member, key=lambda member: member.epoch)
            for life in there.lives:
                known[life.incarnation] = max(known.get(life.incarnation, 0), life.sequence)
    if own is None:
        state = state_of(MemberStatus(member=decided))
        missing = sum(known.values())
        sentence = (
            f"{group}: {region} does not answer, and is {state}. Its peers hold {missing} changes "
            f"of {len(known)} of its lives. Started with an old backup or an empty store it takes "
            "a new incarnation and fetches from them what its store lacks"
        )
        return Report(group, False, state, "", 0, missing, sentence + _remedy(region, state))
    here = _member(own, region)
    decided = max(decided, here.member, key=lambda member: member.epoch)
    state = state_of(MemberStatus(member=decided))
    has = {life.incarnation: life.sequence for life in here.lives}
    former = [life for life in here.lives if not life.current]
    fetched = sum(life.sequence - life.recovered for life in former)
    missing = sum(max(0, most - has.get(life, 0)) for life, most in known.items())
    start = members_pb2.LifeStart.Name(here.start).removeprefix("LIFE_START_")
    sentence = (
        f"{group}: {region} is {state} and {_STARTS[here.start]}; {fetched} changes of its former "
        f"lives came back from its peers, {missing} are missing"
    )
    return Report(group, True, state, start, fetched, missing, sentence + _remedy(region, state))


def _remedy(region: str, state: str) -> str:
    match state:
        case "EVICTED":
            return f". Readmit it with `isthmus members rejoin {region}`"
        case "LEFT" | "LEAVING":
            return f". Take it in again with `isthmus members join {region}`"
    return ""


def _member(status: MembersStatus, region: str) -> MemberStatus:
    return next(each for each in status.members if each.member.region == region)
