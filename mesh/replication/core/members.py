"""Who belongs to a group: the table of decisions, and what follows from it.

The regions that are configured are members until something else is decided about them. Decisions
are taken in one region, the group's home, and replicated in the group itself as one atomic value
that merges by MAX, ordered by (generation, home, incarnation, version). Moving the home starts a
new generation: what the former one still decides is below it, and is lost when the two meet.

Nobody is evicted by the clock. What each state means:

              counts for      history is   tombstones   its links   takes
              MAJORITY        kept for it  wait for it  are taken   writes
    JOINED    yes             yes          yes          yes         yes
    LEAVING   yes             yes          yes          yes         no
    LEFT      no              no           no           no          no
    EVICTED   no              no           yes          no          yes, alone
    JOINING   no              yes          yes          yes         yes

An evicted region may come back with changes that nobody else has, of entities that were deleted
meanwhile: tombstones wait for it, lest the deleted come back in part. One that left has nothing
that others lack; if it forgets that it left, with its disk, and writes, the home evicts it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from isthmus.replication.v1 import member_pb2

from mesh.replication.core.cells import MAX
from mesh.replication.core.clocks import Origin, Vector, covers, vector_from_proto, vector_to_proto
from mesh.replication.core.entities import EntityKey, EntityState
from mesh.replication.core.errors import Evicted, Left

ENTITY: EntityKey = (member_pb2.Members.DESCRIPTOR.full_name, "members")
"""The entity that holds the table, in every group."""

TABLE_FIELD = member_pb2.Members.TABLE_FIELD_NUMBER
_CELL = (bytes([TABLE_FIELD]), MAX)


class State(Enum):
    """How a region stands; the values are those of isthmus.replication.v1.MemberState."""

    JOINED = 1
    LEAVING = 2
    LEFT = 3
    EVICTED = 4
    JOINING = 5


_COUNTING = (State.JOINED, State.LEAVING)
_HOLDING = (State.JOINED, State.LEAVING, State.JOINING)
_LINKED = _HOLDING


@dataclass(frozen=True)
class Member:
    """What was decided about a region, by whom and when (milliseconds since 1970).

    `positions` is what the home had then.
    """

    state: State = State.JOINED
    epoch: int = 0
    positions: Vector = field(default_factory=dict, compare=False)
    actor: str = ""
    time_ms: int = 0


_UNDECIDED = Member()


@dataclass(frozen=True)
class Members:
    """The table of a group. `home` is the region that decides."""

    home: str
    generation: int = 0
    incarnation: int = 0
    version: int = 0
    decided: Mapping[str, Member] = field(default_factory=dict)

    @property
    def rank(self) -> tuple[int, str, int, int]:
        """What orders tables."""
        return self.generation, self.home, self.incarnation, self.version

    def of(self, region: str) -> Member:
        """What was decided about a region; JOINED under epoch 0 if nothing was."""
        return self.decided.get(region, _UNDECIDED)

    def counts(self, region: str) -> bool:
        """Whether it counts for what a majority of the members is."""
        return self.of(region).state in _COUNTING

    def holds(self, region: str) -> bool:
        """Whether journals are kept until it has made durable what is in them."""
        return self.of(region).state in _HOLDING

    def remembered(self, region: str) -> bool:
        """Whether it may still bring changes: tombstones wait for it."""
        return self.of(region).state is not State.LEFT

    def writes(self, region: str) -> bool:
        """Whether it takes writes."""
        return self.of(region).state not in (State.LEAVING, State.LEFT)

    def check_link(self, region: str) -> None:
        """Raises the `LinkFault` with which a region's links are refused."""
        state = self.of(region).state
        if state not in _LINKED:
            raise (Evicted if state is State.EVICTED else Left)(
                f"{region} is {state.name} (decided in {self.home} at "
                f"{self.generation}.{self.version})"
            )


def of_state(state: EntityState | None, default_home: str) -> Members:
    """The table in the stored state of `ENTITY`; the one before all decisions if there is none."""
    cell = None if state is None or state.deleted else state.cells.get(_CELL)
    if cell is None:
        return Members(default_home)
    return from_proto(member_pb2.Members.FromString(cell[1]).table)


def from_proto(table: member_pb2.MemberTable) -> Members:
    """The table in a message."""
    decided = {
        each.region: Member(
            _state(each.state),
            each.epoch,
            vector_from_proto(each.positions),
            each.actor,
            each.time.ToMilliseconds(),
        )
        for each in table.members
    }
    return Members(table.home, table.generation, table.incarnation, table.version, decided)


def to_proto(members: Members) -> member_pb2.MemberTable:
    """The message for a table."""
    table = member_pb2.MemberTable(
        generation=members.generation,
        home=members.home,
        incarnation=members.incarnation,
        version=members.version,
    )
    for region, each in sorted(members.decided.items()):
        found = table.members.add(
            region=region,
            state=each.state.value,
            epoch=each.epoch,
            positions=vector_to_proto(each.positions),
            actor=each.actor,
        )
        found.time.FromMilliseconds(each.time_ms)
    return table


def _state(number: int) -> State:
    # What a newer version decided beyond these is no reason to lose history over.
    return State(number) if number in State._value2member_map_ else State.JOINED


def handed_over(
    region: str, has: Mapping[Origin, int], others: Iterable[Mapping[Origin, int]]
) -> bool:
    """Whether each of `others` has all of a region's own changes that the region itself has."""
    own = {origin: sequence for origin, sequence in has.items() if origin.region == region}
    return all(covers(other, own) for other in others)
