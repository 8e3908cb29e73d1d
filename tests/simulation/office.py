"""Where a simulated region's members are decided, and what must hold of decisions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from isthmus.replication.v1 import member_pb2

from mesh.replication import WriteContext, decisions
from mesh.replication.core import members
from mesh.replication.core.errors import ClockAhead, DecisionRefused, NotAMember, NotTheHome
from mesh.replication.core.members import Member, Members, State
from mesh.replication.membership import Change, Limits, Membership
from mesh.replication.transaction import Transaction
from tests.simulation.model import Violation

if TYPE_CHECKING:
    from tests.simulation.region import Region

Rank = tuple[int, str, int, int]


class Ledger:
    """All decisions that were acknowledged, by their writes' numbers, and what they promise."""

    def __init__(self) -> None:
        self.acknowledged: dict[int, Members] = {}
        self.owed: dict[tuple[str, int], int] = {}
        """By region and epoch of its readmission: the writes that it must hand over."""
        self.left: dict[tuple[str, int], int] = {}
        """By region and epoch of its leaving: the writes that it must have handed over."""
        self.out: set[str] = set()
        """The regions that anybody ever knew to be evicted, or to have left."""

    def highest(self, acknowledged: int) -> Rank | None:
        """The table that must win in the end, or one above it; some may have gone with a disk."""
        tables = (table for n, table in self.acknowledged.items() if acknowledged >> n & 1)
        return max((table.rank for table in tables), default=None)


class Queued:
    """A write that is under way until its region stored or refused it."""

    def __init__(self, region: Region, number: int) -> None:
        self._region = region
        self._number = number

    def done(self) -> bool:
        """Whether it is over."""
        return not self._region.writing(self._number)


class Office:
    """A region's membership, with its writes numbered for the model."""

    def __init__(self, region: Region) -> None:
        self._region = region
        self._deciding: dict[int, Members] = {}
        self._shown = region.journal.members
        self.membership = Membership(
            "channels",
            region.journal,
            tuple(region.peers),
            Limits(),
            write=self._never,
            submit=lambda change, _: self._submit(change),
            silence_ms=lambda peer: region.hearing.silence_ms(peer, region.world.timeline.now),
            reachable=lambda peer: region.hearing.reachable(peer, region.world.timeline.now),
            ahead_ms=dict,
            now_ms=lambda: region.wall_ms,
        )

    async def _never(self, change: Change, context: WriteContext) -> None:
        raise AssertionError("nothing is awaited in a simulation")

    def _submit(self, change) -> Queued:
        number = self._region.world.model.plan(self._region.seen)
        self._region.write(number, lambda tx: self._note(number, tx, change), {})
        return Queued(self._region, number)

    def _note(self, number: int, transaction: Transaction, change) -> None:
        change(transaction)
        found = transaction.get(member_pb2.Members, members.ENTITY[1])
        if found is not None:
            self._deciding[number] = members.from_proto(found.table)

    def decide(self, verb: str, region: str) -> None:
        """Takes a decision about a region, if this is the home and it may be taken."""
        decision = getattr(decisions, verb)
        self._try(lambda: self.membership.change(decision, region, WriteContext(actor="operator")))

    def move_home(self, to: str) -> None:
        """Moves the home, by force if this is the new one."""
        force = to == self._region.name
        by = WriteContext(actor="operator")
        self._try(lambda: self.membership.change_of_home(to, by, force=force))

    def _try(self, change) -> None:
        try:
            self._submit(change())
        except (ClockAhead, DecisionRefused, NotAMember, NotTheHome):
            pass

    def acknowledged(self, number: int) -> None:
        """A write is stored; if it was a decision, it stands."""
        table = self._deciding.pop(number, None)
        if table is None:
            return
        world = self._region.world
        world.ledger.acknowledged[number] = table
        for name, member in table.decided.items():
            if member.state is State.JOINING:
                own = world.model.written_in(name) & world.model.acknowledged
                world.ledger.owed.setdefault((name, member.epoch), own)

    def look(self) -> None:
        """After a commit: what changed about members must be in order."""
        self.membership.look()
        table = self._region.journal.members
        for name, member in table.decided.items():
            before = self._shown.of(name)
            if member.state in (State.EVICTED, State.LEFT):
                self._region.world.ledger.out.add(name)
            if member != before:
                self._check(name, before, member, table)
        self._shown = table

    def _check(self, name: str, before: Member, now: Member, table: Members) -> None:
        world = self._region.world
        if world.disks_lost:
            return
        held = world.model.held[self._region.name].writes
        if now.state is State.LEFT:
            # As the first saw it who knew: by now it may write again.
            own = world.model.written_in(name) & world.model.acknowledged
            if world.ledger.left.setdefault((name, now.epoch), own) & ~held:
                raise Violation(f"{name} has left, and {self._region.name} lacks what it wrote")
        # The table of a later home may have been decided without what a fenced one says here: to
        # that home the region was never out. Who decides that it has joined sees all its steps.
        same = table.generation == self._shown.generation
        rejoined = same and now.state is State.JOINED and before.state is State.JOINING
        if rejoined and world.ledger.owed.get((name, before.epoch), 0) & ~held:
            raise Violation(
                f"{name} has joined again, and {self._region.name} lacks what it wrote alone"
            )
