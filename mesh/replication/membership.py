"""A group's members in one region: decisions as writes, limits, and how all of them stand."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from google.protobuf.duration_pb2 import Duration
from isthmus.replication.v1 import member_pb2, members_pb2

from mesh.contracts.model import Entity, Field, Location, Merge
from mesh.replication.core import decisions, members
from mesh.replication.core.clocks import Vector
from mesh.replication.core.decisions import Deciding, Decision
from mesh.replication.core.durable import Durable
from mesh.replication.core.errors import DecisionRefused, NotTheHome
from mesh.replication.core.journal import Journal
from mesh.replication.core.members import Members
from mesh.replication.errors import NotFound
from mesh.replication.transaction import Transaction
from mesh.replication.views import WriteContext

_log = logging.getLogger("isthmus.replication")

Change = Callable[[Transaction], member_pb2.Members]
Write = Callable[[Change, WriteContext], Awaitable[object]]
"""A write that is waited for."""

Submit = Callable[[Callable[[Transaction], None], WriteContext], "Queued"]
"""Queues a write."""


class Queued(Protocol):
    """A write that is under way."""

    def done(self) -> bool:
        """Whether it is over, one way or another."""


_TYPE, _KEY = members.ENTITY

ENTITY = Entity(
    name=_TYPE,
    group="",
    key="key",
    key_number=member_pb2.Members.KEY_FIELD_NUMBER,
    history=True,
    fields=(
        Field(
            "table",
            members.TABLE_FIELD,
            (members.TABLE_FIELD,),
            Merge.MAX,
            ("generation", "home", "incarnation", "version"),
        ),
    ),
    location=Location("isthmus/replication/v1/member.proto", 1),
)
"""What every group holds besides the entities of its contract."""


@dataclass(frozen=True)
class Limits:
    """Beyond these a member is marked: silence in milliseconds, bytes of journal kept for it."""

    silent_ms: int = 24 * 3600 * 1000
    held_bytes: int = 4 << 30


class Membership:
    """Who belongs to the group, and who decides it.

    `silence_ms` says for how long a peer has been silent, None if it was never heard; `reachable`
    whether it gives signs of life; `ahead_ms` how far the clock here is ahead of the peers'.
    """

    def __init__(
        self,
        name: str,
        journal: Journal,
        peers: tuple[str, ...],
        limits: Limits,
        *,
        write: Write,
        submit: Submit,
        silence_ms: Callable[[str], int | None],
        reachable: Callable[[str], bool],
        ahead_ms: Callable[[], Mapping[str, int]],
        now_ms: Callable[[], int],
    ) -> None:
        self.durable = Durable(journal.region, peers, journal.members, journal.vector)
        self._name = name
        self._journal = journal
        self._peers = peers
        self._limits = limits
        self._write = write
        self._submit = submit
        self._silence_ms = silence_ms
        self._reachable = reachable
        self._ahead_ms = ahead_ms
        self._now_ms = now_ms
        self._opened_ms = now_ms()
        self._own_context = WriteContext(actor=f"region/{journal.region}")
        self._held: dict[str, int] = {}
        self._marks: dict[str, list[members_pb2.MemberMark.ValueType]] = {}
        self._table = journal.members
        self._following: Queued | None = None

    @property
    def table(self) -> Members:
        """What was decided last, as far as it is known here."""
        return self._journal.members

    # Decisions.

    async def decide(
        self, decision: Decision, region: str, context: WriteContext
    ) -> members_pb2.MembersStatus:
        """Takes a decision about a region, which has effect once it is durable here.

        Raises `NotTheHome`, `DecisionRefused`, `NotFound` for a region that is not configured, and
        what a write raises.
        """
        await self._write(self.change(decision, region, context), context)
        return self.status()

    def change(self, decision: Decision, region: str, context: WriteContext) -> Change:
        """The write that takes a decision. Raises as `decide`, now or when it runs."""
        self._configured(region)

        def change(transaction: Transaction) -> member_pb2.Members:
            table = self._look(transaction)
            if table.home != self._journal.region:
                raise NotTheHome(self._name, self._journal.region, table.home)
            after = decision(table, region, self._by(context))
            self._check_former_lives(table)
            return self._put(transaction, table, after)

        return change

    def _check_former_lives(self, table: Members) -> None:
        """What a former life of the home decided must be here, as far as any member can tell.

        Unless this life has decided already: that stands above all which is missing.
        """
        if table.incarnation == self._journal.origin.incarnation:
            return
        unsure = [
            peer
            for peer in self._peers
            if self.table.counts(peer) and self._reachable(peer) and not self._journal.whole(peer)
        ]
        if unsure:
            raise DecisionRefused(
                f"{self._journal.region} started lately and fetches what it may have lost from "
                f"{', '.join(unsure)}, decisions about members among it: try again in a moment. If "
                f"it cannot come, because only a region that is out has what it depends on, move "
                f"the home: `isthmus members home --to {unsure[0]} --force`"
            )

    async def move_home(
        self, to: str, context: WriteContext, *, force: bool
    ) -> members_pb2.MembersStatus:
        """Moves the decisions to another region: from the home itself, or by force from the new.

        Raises as `decide`.
        """
        await self._write(self.change_of_home(to, context, force=force), context)
        return self.status()

    def change_of_home(self, to: str, context: WriteContext, *, force: bool) -> Change:
        """The write that moves the home. Raises as `decide`, now or when it runs."""
        self._configured(to)
        region = self._journal.region

        def change(transaction: Transaction) -> member_pb2.Members:
            table = self._look(transaction)
            if table.home not in (region, to) and not (force and to == region):
                raise NotTheHome(self._name, region, table.home)
            if table.home != region and not force:
                raise DecisionRefused(
                    f"{table.home} decides: ask it, or if it is gone for good, use --force"
                )
            if force and to == region:
                after = decisions.take_home(table, to, self._by(context))
                return self._put(transaction, table, after)
            return self._put(transaction, table, decisions.move_home(table, to))

        return change

    def follow_up(self) -> None:
        """What the home decides by itself: who drained has left, who caught up has joined.

        And who left, and wrote all the same, is evicted.
        """
        if self.table.home != self._journal.region:
            return
        under_way = self._following is not None and not self._following.done()
        if under_way or self._followed(self.table) is self.table:
            return

        def change(transaction: Transaction) -> None:
            table = self._look(transaction)
            self._put(transaction, table, self._followed(table))

        self._journal.begin_write(self._now_ms())
        self._following = self._submit(change, self._own_context)

    def _followed(self, table: Members) -> Members:
        return decisions.follow_up(
            table,
            (self._journal.region, *self._peers),
            self._journal.vector,
            self.durable.words(),
            self._by(self._own_context),
        )

    def _by(self, context: WriteContext) -> Deciding:
        journal = self._journal
        return Deciding(
            context.actor, self._now_ms(), dict(journal.vector), journal.origin.incarnation
        )

    def _configured(self, region: str) -> None:
        known = (self._journal.region, *self._peers)
        if region not in known:
            raise NotFound(
                f"no region {region!r} is configured; there are {', '.join(sorted(known))}"
            )

    def _look(self, transaction: Transaction) -> Members:
        found = transaction.get(member_pb2.Members, _KEY)
        return Members(self.table.home) if found is None else members.from_proto(found.table)

    def _put(self, transaction: Transaction, before: Members, after: Members) -> member_pb2.Members:
        message = member_pb2.Members(key=_KEY, table=members.to_proto(after))
        if after is not before:
            if transaction.get(member_pb2.Members, _KEY) is None:
                transaction.create(message)
            else:
                transaction.set(message, "table")
        return message

    def look(self) -> list[str]:
        """After a commit: takes note of what was decided, and returns it for the log."""
        table = self._journal.members
        if table is self._table:
            return []
        decided = []
        for region in (self._journal.region, *self._peers):
            member = table.of(region)
            if member != self._table.of(region):
                decided.append(
                    f"{region} is {member.state.name}, by {member.actor or 'a new home'} in "
                    f"{table.home}"
                )
        if table.home != self._table.home:
            decided.append(f"members are decided in {table.home} from now on")
        self._table = table
        self.durable.decided(table, self._journal.vector)
        return decided

    # Limits.

    def mark(self, held_bytes: Mapping[str, int] | None = None) -> None:
        """Marks the members that are beyond a limit.

        `held_bytes` is what is kept of the journal for each; None: as it was.
        """
        if held_bytes is not None:
            self._held = dict(held_bytes)
        for peer in self._peers:
            marks = []
            if self.table.holds(peer):
                if self._silent_ms(peer) > self._limits.silent_ms:
                    marks.append(members_pb2.MEMBER_MARK_SILENT)
                if self._held.get(peer, 0) > self._limits.held_bytes:
                    marks.append(members_pb2.MEMBER_MARK_HOLDS_JOURNAL)
            if marks and marks != self._marks.get(peer):
                _log.warning(
                    "group %s: %s is marked for eviction (%s): bring it back, or go on without it "
                    "with `isthmus members evict %s`",
                    self._name, peer, ", ".join(map(members_pb2.MemberMark.Name, marks)), peer,
                )  # fmt: skip
            self._marks[peer] = marks

    def behind(self) -> dict[str, Vector]:
        """What each peer for which history is kept said last that it has; empty if nothing."""
        words = self.durable.words()
        return {
            peer: words[peer].latest if peer in words else {}
            for peer in self._peers
            if self.table.holds(peer)
        }

    def words(self) -> dict[str, Vector]:
        """What each peer said last that it has, of all that may still bring changes."""
        words = self.durable.words()
        return {
            peer: words[peer].latest if peer in words else {}
            for peer in self._peers
            if self.table.remembered(peer)
        }

    def _silent_ms(self, peer: str) -> int:
        silence = self._silence_ms(peer)
        return self._now_ms() - self._opened_ms if silence is None else silence

    # How they stand.

    def status(self) -> members_pb2.MembersStatus:
        """How all configured regions stand."""
        table = self.table
        status = members_pb2.MembersStatus(
            group=self._name,
            region=self._journal.region,
            generation=table.generation,
            home=table.home,
            version=table.version,
        )
        decided = {each.region: each for each in members.to_proto(table).members}
        for region in sorted((self._journal.region, *self._peers)):
            undecided = member_pb2.Member(region=region, state=member_pb2.MEMBER_STATE_JOINED)
            status.members.append(self._one(region, decided.get(region, undecided)))
        return status

    def _one(self, region: str, member: member_pb2.Member) -> members_pb2.MemberStatus:
        journal = self._journal
        silence = self._silence_ms(region) if region != journal.region else None
        found = members_pb2.MemberStatus(
            member=member,
            counts=self.table.counts(region),
            silence=None if silence is None else _duration(silence),
            held_bytes=self._held.get(region, 0),
            marks=self._marks.get(region, ()),
        )
        if region == journal.region:
            found.start = members_pb2.LifeStart.ValueType(journal.life.start.value)
        if region in (ahead := self._ahead_ms()):
            found.clock_ahead.FromMilliseconds(ahead[region])
        early = [ms for origin, ms in journal.arrivals.early.items() if origin.region == region]
        if early:
            found.early.FromMilliseconds(max(early))
        for life, sequence in sorted(journal.vector.items()):
            if life.region == region:
                found.lives.add(
                    incarnation=life.incarnation,
                    sequence=sequence,
                    recovered=journal.life.recovered.get(life, 0),
                    current=life == journal.origin,
                )
        return found


def _duration(milliseconds: int) -> Duration:
    found = Duration()
    found.FromMilliseconds(max(0, milliseconds))
    return found
