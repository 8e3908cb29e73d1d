"""A replication group in one region: the façade that services use."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from google.protobuf.message import Message
from isthmus.mesh.v1 import status_pb2
from isthmus.replication.v1 import link_pb2

from mesh.contracts.model import Contract
from mesh.replication.claims import Claiming
from mesh.replication.committer import Committer
from mesh.replication.core.batches import Visible, Write
from mesh.replication.core.clocks import Origin, Vector, covers
from mesh.replication.core.grants import Claims, Operation
from mesh.replication.core.parked import KNOWN, Known
from mesh.replication.core.reach import DEFAULT_LOST_AFTER_MS
from mesh.replication.core.signatures import Signing
from mesh.replication.core.tokens import reduced
from mesh.replication.errors import NotYetHere
from mesh.replication.horizon import KEPT_BYTES, Horizon
from mesh.replication.links import Dial, Links, link_max_age
from mesh.replication.membership import Limits, Membership
from mesh.replication.opening import Opened, open_group
from mesh.replication.operations import Operations
from mesh.replication.parked import Parked
from mesh.replication.presence import Presence
from mesh.replication.reading import Entities
from mesh.replication.rights import Rights
from mesh.replication.schema import ClassOf, generated_class
from mesh.replication.scrubbing import Scrubber
from mesh.replication.standing import Standing
from mesh.replication.tail import Tail
from mesh.replication.transaction import Transaction
from mesh.replication.views import (
    Applied,
    Batch,
    Reach,
    ReachChanged,
    Snapshot,
    WatchEvent,
    WriteContext,
)
from mesh.replication.waiting import Waiting
from mesh.replication.watch import Watchers
from mesh.replication.writing import Writer

M = TypeVar("M", bound=Message)

_log = logging.getLogger("isthmus.replication")

_TICK_SECONDS = 0.25
_TICKS_OF_STATUS = 4


class Group(Entities):
    """A group's entities in one region, which reads and writes them alone.

    Open with `Group.open`, then `connect` to link with the peers.
    """

    def __init__(
        self,
        name: str,
        opened: Opened,
        peers: tuple[str, ...],
        *,
        clock: Callable[[], int],
        monotonic: Callable[[], float],
        lost_after: float,
        link_max_age: float | None,
        limits: Limits,
        on_applied: Callable[[Applied], None] | None,
        keep_bytes: int,
    ) -> None:
        store, schema, journal, unflushed = opened
        super().__init__(journal, store, schema)
        self.name = name
        self.region = journal.region
        self.peers = peers
        self.log = store
        self.tail = Tail(store)
        self.link_max_age = link_max_age
        self.left = False
        self.changes_applied = 0
        self._clock = clock
        self._monotonic = monotonic
        self.presence = Presence(
            self.region, peers, int(lost_after * 1000), self.now_ms, self._monotonic_ms
        )
        self._on_applied = on_applied
        self._watchers = Watchers()
        self.members = Membership(
            name,
            journal,
            peers,
            limits,
            write=self.write,
            submit=self._submit,
            silence_ms=self.presence.silence_ms,
            reachable=self.presence.reachable,
            ahead_ms=self.presence.ahead_ms,
            now_ms=self.now_ms,
        )
        self._committing = Waiting()
        self._operations = Operations(name, store, self._left_of, self._arrived, self.now_ms)
        self._claiming = Claiming(
            self,
            Claims(journal.region, store.fences()),
            self._operations.known,
            journal.brings,
            discreet=schema.discreet,
        )
        self._horizon = Horizon(journal, store, self.members, keep_bytes, self.now_ms)
        self._committer = Committer(
            name, journal, store, self.tail, unflushed, self._visible, self._horizon.tend
        )
        self._links = Links(self)
        self._rights = Rights(journal, schema, self._submit)
        self._parked = Parked(name, journal, schema)
        self._scrubber = Scrubber(self, self._committer)
        self._tick: asyncio.Task[None] | None = None
        self._writer = Writer(
            journal,
            schema,
            self._committer,
            self._operations,
            self._claiming,
            self.presence,
            self.members.durable,
            self._rights,
            self._left_of,
            self.now_ms,
        )
        self._standing = Standing(
            name,
            journal,
            store,
            self.members,
            self.presence,
            self._links,
            self._scrubber,
            self._horizon,
            self._parked,
            self.now_ms,
        )

    @classmethod
    async def open(
        cls,
        contract: Contract,
        name: str,
        *,
        region: str,
        peers: Iterable[str],
        folder: Path,
        clock: Callable[[], int] = time.time_ns,
        monotonic: Callable[[], float] = time.monotonic,
        lost_after: float = DEFAULT_LOST_AFTER_MS / 1000,
        home: str = "",
        limits: Limits = Limits(),  # noqa: B008 # frozen
        on_applied: Callable[[Applied], None] | None = None,
        class_of: ClassOf = generated_class,
        keep_bytes: int = KEPT_BYTES,
        known: Known = KNOWN,
        signing: Signing | None = None,
    ) -> Group:
        """Opens, recovers and starts a group.

        `folder` holds its store; `clock` gives nanoseconds since 1970, `monotonic` seconds; a peer
        that is silent for `lost_after` seconds is not reachable. `home` is the region that decides
        about members at first (default: the first by name), the same in all; who is beyond `limits`
        is marked. `on_applied` is called for each frame of another region; `keep_bytes` of the
        journal are kept although all have them; what comes and is not `known` is parked. `signing`
        proves to others what is written here, when it comes to them through a third region, and
        checks what comes here so; without it nothing relayed is taken. Raises `SchemaError` and
        `StoreError`.
        """
        others = tuple(peer for peer in peers if peer != region)
        opened = await open_group(
            contract,
            name,
            region,
            others,
            folder,
            clock() // 1_000_000,
            home=home,
            class_of=class_of,
            known=known,
            signing=signing,
        )
        group = cls(
            name,
            opened,
            others,
            clock=clock,
            monotonic=monotonic,
            lost_after=lost_after,
            link_max_age=link_max_age(contract),
            limits=limits,
            on_applied=on_applied,
            keep_bytes=keep_bytes,
        )
        group._committer.start()
        group._scrubber.start()
        group._tick = asyncio.create_task(group._watch_reach(), name=f"reach of {name}")
        return group

    def connect(self, dial: Dial) -> None:
        """Links with all peers. `dial` gives a channel on which to call the peer's LinkService."""
        self._links.start(dial)
        self._claiming.connect(dial)

    async def leave(self) -> None:
        """Ends links, both ways, and watchers; reads and writes go on until `close`."""
        self.left = True
        if self._tick is not None:
            self._tick.cancel()
            await asyncio.gather(self._tick, return_exceptions=True)
        await self._links.close()
        await self._claiming.close()
        await self._scrubber.close()
        self._watchers.close()
        for signal in self.commit_signals:
            signal.set()

    async def close(self) -> None:
        """Leaves, commits what is queued, and lets go of the store."""
        await self.leave()
        await self._committer.close()

    # Writing.

    async def write(self, change: Callable[[Transaction], M], context: WriteContext) -> M:
        """Runs `change` and returns what it returned, once its changes are durable here.

        If `change` raises, nothing is written. A repeat of a request id returns the first result
        without running `change`; of one that says so, and is not known here, the other regions are
        asked first. Raises `WriteError`s; `ClockAhead` and `NotAMember` while the region must not
        write; `RequestIdReused` if the id came with another request;
        `OperationUnknown` if a region that may have done it cannot be asked within the deadline;
        `DurabilityPending` if the write is durable here, and not within the deadline in as many
        regions as the context asks for.
        """
        return await self._writer.write(change, context)

    @property
    def writes_accepted(self) -> int:
        """Writes that were acknowledged since the start."""
        return self._writer.accepted

    def _submit(
        self, change: Callable[[Transaction], None], context: WriteContext
    ) -> asyncio.Future[Vector]:
        return self._writer.submit(change, context)

    # Sessions.

    def seen(self) -> Vector:
        """What whoever reads or wrote here now has seen: for a token."""
        return reduced(self.journal.vector, self.journal.implied)

    def unseen(self, seen: Mapping[Origin, int]) -> Vector:
        """What of this was seen elsewhere and is not here yet."""
        vector = self.journal.vector
        return {o: n for o, n in seen.items() if n > vector.get(o, 0)}

    async def wait_for(self, seen: Vector, deadline: float | None) -> None:
        """Waits until what was seen elsewhere is here.

        Raises `NotYetHere` at `deadline` (seconds on the group's monotonic clock).
        """
        if not await self._arrived(seen, self._left(deadline)):
            vector = self.journal.vector
            missing = self.unseen(seen).items()
            behind = {origin: sequence - vector.get(origin, 0) for origin, sequence in missing}
            raise NotYetHere(self.name, self.region, behind)

    async def _arrived(self, vector: Vector, seconds: float | None) -> bool:
        return await self._committing.until(lambda: covers(self.journal.vector, vector), seconds)

    def _left(self, deadline: float | None) -> float | None:
        return None if deadline is None else deadline - self._monotonic()

    def _left_of(self, context: WriteContext) -> float | None:
        return self._left(context.deadline)

    # Following.

    def watch(self, types: Iterable[type[Message]] | None = None) -> AsyncIterator[WatchEvent]:
        """A snapshot, then each commit's changes and each change of reach.

        `types` limits what is seen. Raises `WatcherTooSlow` to one that does not keep up: watch
        again. Raises `GroupClosed` at the end.
        """
        names = (
            None
            if types is None
            else frozenset(self._schema.entity(type.DESCRIPTOR.full_name).name for type in types)
        )
        return self._watchers.follow(
            names,
            lambda: Snapshot(
                tuple(self._views.living(names)), self.reach(), dict(self.journal.vector)
            ),
        )

    def reach(self) -> Mapping[str, Reach]:
        """How the group's regions stand, the own included: whether they live, as far as is known.

        A region whose own link is down is reachable while another region hears it.
        """
        return self.presence.reach()

    def status(self) -> status_pb2.GroupStatus:
        """How the group stands: position, digest and links.

        Other threads than the group's, such as those that collect metrics, get what stood within
        the last second.
        """
        return self._standing.status()

    # For the links and for claims.

    async def claim(self, by: str, request: link_pb2.ClaimRequest) -> link_pb2.ClaimResponse:
        """What a peer is told that asks for an operation. Raises `StoreError`."""
        return await self._claiming.answer(by, request)

    @property
    def operations_doubled(self) -> int:
        """Operations that two regions did, as found here since the start."""
        return self._operations.doubled

    def claimed_from(self) -> list[str]:
        """The regions that may have done an operation: all members but this one."""
        return [peer for peer in self.peers if self.members.table.holds(peer)]

    def position(self) -> Vector:
        """What is here."""
        return self.journal.vector

    async def fence(self, operation: Operation, time_ms: int) -> None:
        """Makes durable that an operation was granted to another region."""
        await self._committer.on_thread(lambda: self._store.fence(operation, time_ms))

    def now_ms(self) -> int:
        """The wall clock in milliseconds."""
        return self._clock() // 1_000_000

    def acknowledged(self, peer: str, vector: Mapping[Origin, int]) -> None:
        """A peer said on its own stream what it has on disk."""
        self.members.durable.acknowledged(peer, vector)
        self._writer.acknowledged()

    @property
    def commit_signals(self) -> set[asyncio.Event]:
        """Events that are set after each commit."""
        return self._links.signals

    def compare(self) -> None:
        """Goes on comparing with the peers."""
        self._links.compare()

    def frames_came(self) -> None:
        """Frames wait to be committed."""
        self._committer.wake()

    def refuse(self, writes: Sequence[Write]) -> None:
        """Tells writers that their writes are lost: the region took a new incarnation."""
        self._committer.refuse(writes)

    def _monotonic_ms(self) -> int:
        return int(self._monotonic() * 1000)

    def _visible(self, visible: Visible) -> None:
        self._standing.committed(visible)
        if self._watchers and (visible.after or visible.conflicts or visible.residents):
            changes = self._views.changes(visible)
            decided = self._conflict_views(reversed(visible.conflicts))
            self._watchers.offer(Batch(changes, tuple(reversed(decided))))
        self._operations.met(visible.doubled)
        for frame in visible.frames:
            self.changes_applied += frame.count
            if self._on_applied is not None and frame.origin.region != self.region:
                self._on_applied(Applied.of(self.name, frame))
        for line in self.members.look():
            _log.warning("group %s: %s", self.name, line)
            self._writer.acknowledged()
        self._parked.look(visible)
        self._links.committed()
        self._committing.look()
        self._rights.look(visible.after)
        self._hand_over()

    def _hand_over(self) -> None:
        if not self.left:
            self._rights.hand_over()

    async def _watch_reach(self) -> None:
        for tick in itertools.count():
            await asyncio.sleep(_TICK_SECONDS)
            if tick % _TICKS_OF_STATUS == 0:
                self.members.mark()
                self.status()
            if self.journal.arrivals.pass_time(self.now_ms()):
                self._committer.wake()
            self._hand_over()
            self.members.follow_up()
            if self.presence.look():
                self._watchers.offer(ReachChanged(self.reach()))
            self._links.relay(self.presence.linked)
