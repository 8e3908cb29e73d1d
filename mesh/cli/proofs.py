"""What the regions of a group have proven of each other's state."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from itertools import combinations

from isthmus.mesh.v1.status_pb2 import GroupStatus
from isthmus.replication.v1 import member_pb2
from isthmus.replication.v1.digest_pb2 import Corruption, PairStatus

from mesh.cli.standing import Standing

Vector = dict[tuple[str, int], int]
"""By region and incarnation, how far."""

_OUTSIDE = (member_pb2.MEMBER_STATE_LEFT, member_pb2.MEMBER_STATE_EVICTED)


@dataclass(frozen=True)
class Pair:
    """Two regions of a group; `equal_up_to` is None unless each has compared itself with the other.

    `age`: since the older of the two comparisons began. `problem`: why there is none.
    """

    group: str
    regions: tuple[str, str]
    equal_up_to: Vector | None
    age: timedelta | None
    ranges_compared: int
    ranges_differed: int
    problem: str = ""

    def proven(self, within: timedelta) -> bool:
        """Whether both are proven equal, and not longer ago."""
        return self.equal_up_to is not None and self.age is not None and self.age <= within


@dataclass(frozen=True)
class Soundness:
    """What was found damaged in one region of a group, and what became of it."""

    group: str
    region: str
    found: int
    repaired: int
    memory_passes: int
    disk_passes: int
    corruptions: tuple[Corruption, ...]


def soundness(standings: Iterable[Standing]) -> list[Soundness]:
    """By group and region."""
    found = []
    for group, members in _groups(standings).items():
        for region, status in sorted(members.items()):
            if status is not None:
                told = status.integrity
                found.append(
                    Soundness(
                        group,
                        region,
                        told.found,
                        told.repaired,
                        told.memory_passes,
                        told.disk_passes,
                        tuple(told.corruptions),
                    )
                )
    return found


def pairs(standings: Iterable[Standing], only: str = "") -> list[Pair]:
    """All pairs of a group's members, by group; with `only` those of that region."""
    found = []
    for group, members in _groups(standings).items():
        outside = {
            each.member.region
            for status in members.values()
            if status is not None
            for each in status.members.members
            if each.member.state in _OUTSIDE
        }
        for one, other in combinations(sorted(members.keys() - outside), 2):
            if not only or only in (one, other):
                found.append(_pair(group, one, other, members))
    return found


def _groups(standings: Iterable[Standing]) -> dict[str, dict[str, GroupStatus | None]]:
    """By group, the status of each region; None where its workload gives none."""
    standings = list(standings)
    names = {
        each.workload: each.status.group.group
        for each in standings
        if each.status is not None and each.status.HasField("group")
    }
    found: dict[str, dict[str, GroupStatus | None]] = defaultdict(dict)
    for each in standings:
        if each.workload in names:
            status = None if each.status is None else each.status.group
            found[names[each.workload]][each.region] = status
    return dict(sorted(found.items()))


def _pair(group: str, one: str, other: str, members: Mapping[str, GroupStatus | None]) -> Pair:
    told: list[PairStatus] = []
    problem = ""
    for region, peer in ((one, other), (other, one)):
        status = members[region]
        if status is None:
            problem = problem or f"{region} does not answer"
            continue
        about = [pair for pair in status.pairs if pair.peer == peer]
        told += about
        if not about or not about[0].HasField("equal_up_to"):
            problem = problem or f"{region} has not compared all with {peer} yet"
    known = [each for each in told if each.HasField("equal_up_to")]
    both = len(known) == 2
    return Pair(
        group,
        (one, other),
        _least([_vector(each) for each in known]) if both else None,
        max(each.age.ToTimedelta() for each in known) if both else None,
        sum(each.ranges_compared for each in told),
        sum(each.ranges_differed for each in told),
        problem,
    )


def _vector(pair: PairStatus) -> Vector:
    return {
        (position.origin.region, position.origin.incarnation): position.sequence
        for position in pair.equal_up_to.positions
    }


def _least(vectors: list[Vector]) -> Vector:
    first, *others = vectors
    return {
        origin: min(sequence, *(each[origin] for each in others))
        for origin, sequence in first.items()
        if all(origin in each for each in others)
    }
