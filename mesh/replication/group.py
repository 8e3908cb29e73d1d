"""A replication group in one region: the façade that services use."""

from __future__ import annotations

import asyncio
import builtins
import itertools
import logging
import secrets
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from google.protobuf.message import Message
from isthmus.mesh.v1 import status_pb2
from isthmus.replication.v1 import frame_pb2, link_pb2

from mesh.contracts.model import Contract
from mesh.replication import conflicts, residency
from mesh.replication.claims import Claiming
from mesh.replication.committer import Committer
from mesh.replication.core import etags
from mesh.replication.core.clocks import Origin, Vector, covers, milliseconds, vector_to_proto
from mesh.replication.core.conflicts import Conflict
from mesh.replication.core.drift import Drift
from mesh.replication.core.entities import DELETE, EntityKey
from mesh.replication.core.frames import Frame
from mesh.replication.core.grants import Claims, Operation
from mesh.replication.core.journal import SALT_BITS, Journal, Visible, Write
from mesh.replication.core.parked import KNOWN, Known
from mesh.replication.core.reach import DEFAULT_LOST_AFTER_MS, Hearing
from mesh.replication.core.signatures import Keyring, Signing
from mesh.replication.core.tokens import reduced
from mesh.replication.errors import DurabilityPending, NotYetHere, RightsShort
from mesh.replication.horizon import KEPT_BYTES, Horizon
from mesh.replication.lagging import Lagging
from mesh.replication.links import Dial, Links
from mesh.replication.membership import ENTITY as MEMBERS
from mesh.replication.membership import Limits, Membership
from mesh.replication.operations import Operations
from mesh.replication.parked import Parked
from mesh.replication.rendering import Renderer
from mesh.replication.rights import Rights
from mesh.replication.schema import ClassOf, GroupSchema, generated_class
from mesh.replication.scrubbing import Scrubber
from mesh.replication.store import Store
from mesh.replication.store.conflicts import KEPT as CONFLICTS_KEPT
from mesh.replication.store.sqlite import SqliteStore
from mesh.replication.transaction import Transaction
from mesh.replication.views import (
    Batch,
    ChangeRecord,
    ConflictView,
    Reach,
    ReachChanged,
    Snapshot,
    Value,
    View,
    WatchEvent,
    WriteContext,
)
from mesh.replication.waiting import Waiting
from mesh.replication.watch import Watcher

M = TypeVar("M", bound=Message)

_log = logging.getLogger("isthmus.replication")

LINK_SERVICE = "isthmus.replication.v1.LinkService"
HISTORY_KEPT = 1000
"""How many changes `history` returns at most."""

_TICK_SECONDS = 0.25
_TICKS_OF_STATUS = 4


@dataclass(frozen=True)
class Applied:
    """A frame of another region that became visible here.

    `trace_parents` are the traces that its changes were made under; `newest_ms` is the wall clock
    of its last change where it was made.
    """

    group: str
    origin: Origin
    first: int
    last: int
    trace_parents: tuple[str, ...]
    newest_ms: int


class Group:
    """A group's entities in one region, which reads and writes them alone.

    Open with `Group.open`, then `connect` to link with the peers.
    """

    def __init__(
        self,
        name: str,
        journal: Journal,
        store: Store,
        schema: GroupSchema,
        peers: tuple[str, ...],
        unflushed: Iterable[EntityKey],
        *,
        clock: Callable[[], int],
        monotonic: Callable[[], float],
        lost_after: float,
        link_max_age: float | None,
        limits: Limits,
        on_applied: Callable[[Applied], None] | None,
        keep_bytes: int,
    ) -> None:
        self.name = name
        self.region = journal.region
        self.peers = peers
        self.journal = journal
        self.log = store
        self.link_max_age = link_max_age
        self.left = False
        self.changes_applied = 0
        self.writes_accepted = 0
        self._store = store
        self._schema = schema
        self._clock = clock
        self._monotonic = monotonic
        self._hearing = Hearing(peers, int(lost_after * 1000))
        self.drift = Drift()
        self._last_heard: dict[str, int] = {}
        self._reachable: dict[str, bool] = {}
        self._linked: set[str] = set()
        self._on_applied = on_applied
        self._views = Renderer(journal, schema)
        self._watchers: set[Watcher] = set()
        self.members = Membership(
            name,
            journal,
            peers,
            limits,
            write=self.write,
            submit=self._submit,
            silence_ms=self.silence_ms,
            reachable=lambda peer: self.reach()[peer].reachable,
            ahead_ms=self.ahead_ms,
            now_ms=self.now_ms,
        )
        self._committing = Waiting()
        self._acknowledging = Waiting()
        self._operations = Operations(
            name, store, lambda context: self._left(context.deadline), self._arrived, self.now_ms
        )
        self._claiming = Claiming(
            self,
            Claims(journal.region, store.fences()),
            self._operations.known,
            journal.brings,
            discreet=schema.discreet,
        )
        self._horizon = Horizon(journal, store, self.members, keep_bytes, self.now_ms)
        self._committer = Committer(
            name, journal, store, unflushed, self._visible, self._horizon.tend
        )
        self._links = Links(self)
        self._rights = Rights(journal, schema, self._submit)
        self._parked = Parked(name, journal, schema)
        self._scrubber = Scrubber(self, self._committer)
        self._tick: asyncio.Task[None] | None = None
        self._entities = sum(not state.deleted for state in journal.committed.values())
        self._thread = threading.get_ident()
        self._last_status = self._status()

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
        schema = GroupSchema((*contract.group_entities(name), MEMBERS), class_of)
        digest = contract.group_digests.get(name, b"")
        others = tuple(peer for peer in peers if peer != region)
        store = await asyncio.to_thread(
            SqliteStore, folder, name, region, digest, schema.history_types, known
        )
        try:
            remembered = await asyncio.to_thread(store.resident_fields, schema.resident_fields)
            schema.keep(remembered)
            recovered = await asyncio.to_thread(store.recover)
        except BaseException:
            store.close()
            raise
        # The time alone may come again, with a clock that is set back and a disk that is lost.
        salt = secrets.randbits(SALT_BITS)
        process = secrets.randbits(64)
        keys = Keyring(name, signing, recovered.keys)
        now_ms = clock() // 1_000_000
        journal = Journal(
            region, others, digest, recovered, now_ms, salt, home, known, keys, process
        )
        group = cls(
            name,
            journal,
            store,
            schema,
            others,
            recovered.replayed,
            clock=clock,
            monotonic=monotonic,
            lost_after=lost_after,
            link_max_age=_link_max_age(contract),
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
        for watcher in self._watchers:
            watcher.close()
        for signal in self.commit_signals:
            signal.set()

    async def close(self) -> None:
        """Leaves, commits what is queued, and lets go of the store."""
        await self.leave()
        await self._committer.close()

    # Reading: committed state only.

    def get(self, type: type[M], key: str) -> M | None:
        """An entity, or None if it does not live. The message is the caller's own."""
        view = self.get_view(type, key)
        return None if view is None or view.deleted else type.FromString(view.value)

    def list(self, type: type[M]) -> list[M]:
        """All living entities of a type, by key."""
        views = self._views.living({self._schema.entity(type.DESCRIPTOR.full_name).name})
        return [type.FromString(view.value) for view in views]

    def get_view(self, type: type[Message], key: str) -> View | None:
        """An entity with its generation and last change; a tombstone if it was deleted."""
        entity = self._entity(type, key)
        state = self.journal.committed.get(entity)
        return None if state is None else self._views.view(entity, state)

    def history(self, type: type[Message], key: str) -> builtins.list[ChangeRecord]:
        """An entity's changes, newest first, `HISTORY_KEPT` at most.

        Empty if its contract does not keep history.
        """
        schema = self._schema.entity(type.DESCRIPTOR.full_name)
        return [
            ChangeRecord(
                actor=row.actor,
                origin=Origin(row.stamp.region, row.stamp.incarnation),
                time_ms=milliseconds(row.stamp.clock),
                generation=row.generation,
                fields=tuple(schema.name_of(path) for path in row.paths),
                deleted=row.kind == DELETE,
                trace_parent=row.trace_parent,
                request_id=row.request_id,
            )
            for row in self._store.history((schema.name, key), HISTORY_KEPT)
        ]

    def etag(self, type: type[Message], key: str) -> bytes | None:
        """What names this reading of an entity for a later write; None if it does not live.

        `Transaction.set`, `put` and `remove` take it, and change nothing that came since.
        """
        entity = self._entity(type, key)
        state = self.journal.committed.get(entity)
        if state is None or state.deleted:
            return None
        return etags.encode(self._views.whole(entity, state))

    def versions(self, type: type[Message], key: str, field: str) -> builtins.list[Value]:
        """The values of a KEEP_BOTH field that stand; the one that `get` gives comes first.

        More than one is a conflict that nobody has resolved yet: writing the field does.
        """
        state = self.journal.committed.get(self._entity(type, key))
        schema = self._schema.entity(type.DESCRIPTOR.full_name)
        return [] if state is None else conflicts.versions(state, schema, field)

    def conflicts(
        self, type: type[Message] | None = None, key: str = ""
    ) -> builtins.list[ConflictView]:
        """What merging decided between concurrent values: of an entity, or of all; newest first.

        `Batch.conflicts` shows them as they come. Of a group the newest thousand are kept.
        """
        entity = None if type is None else self._entity(type, key)
        return self._conflict_views(self._store.conflicts(entity, CONFLICTS_KEPT))

    def _conflict_views(self, found: Iterable[Conflict]) -> builtins.list[ConflictView]:
        known = self._schema.entities
        return [conflicts.view(c, known[c.entity[0]]) for c in found if c.entity[0] in known]

    def _entity(self, type: type[Message], key: str) -> EntityKey:
        return self._schema.entity(type.DESCRIPTOR.full_name).name, key

    def check_home(self, type: str, key: str) -> None:
        """Raises `NotHome` if an entity of a message type lives, and another region writes it."""
        residency.check_home_of(self._schema.entity(type), self.journal, key)

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
        self._committer.check_open()
        now_ms = self.now_ms()
        repeated = await self._operations.repeated(context, self._claiming)
        if repeated is not None:
            # Where it went is not kept: what is here by now includes it.
            await self._reach_durability(dict(self.journal.vector), context)
            return repeated  # type: ignore[return-value] # what the first call returned
        self._committer.check_open()
        self._check_clock(now_ms)
        self.journal.begin_write(now_ms)
        transaction = Transaction(self.journal, self._schema, context, now_ms)
        try:
            result = change(transaction)
        except RightsShort as short:
            reach = self.reach()
            self._rights.ask(short, {name for name in reach if reach[name].reachable}, context)
            raise
        receipt = self._operations.receipt(context, result, now_ms)
        write = transaction.finish(receipt)
        idle = not write.count and not write.residents and receipt is None
        if idle and self.journal.quiet:
            return result
        done = self._committer.submit(write)
        self._operations.started(context, result, done)
        position = await asyncio.shield(done)
        self.writes_accepted += 1
        await self._reach_durability(position, context)
        return result

    def _check_clock(self, now_ms: int) -> None:
        written_ms = milliseconds(self.journal.clock.last)
        self.drift.check(self.region, now_ms, written_ms, self._monotonic_ms())

    def _submit(
        self, change: Callable[[Transaction], None], context: WriteContext
    ) -> asyncio.Future[Vector]:
        transaction = Transaction(self.journal, self._schema, context, self.now_ms())
        change(transaction)
        return self._committer.submit(transaction.finish(None))

    async def _reach_durability(self, position: Vector, context: WriteContext) -> None:
        needed = context.durability.of(self.members.durable.regions)
        if needed == 1:
            return
        if not await self._acknowledging.until(
            lambda: len(self.members.durable.holders(position)) >= needed,
            self._left(context.deadline),
        ):
            raise DurabilityPending(self.members.durable.holders(position), needed)

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

    # Following.

    async def watch(
        self, types: Iterable[type[Message]] | None = None
    ) -> AsyncIterator[WatchEvent]:
        """A snapshot, then each commit's changes and each change of reach.

        `types` limits what is seen. Raises `WatcherTooSlow` to one that does not keep up: watch
        again. Raises `GroupClosed` at the end.
        """
        names = (
            None
            if types is None
            else frozenset(self._schema.entity(type.DESCRIPTOR.full_name).name for type in types)
        )
        watcher = Watcher(names)
        self._watchers.add(watcher)
        try:
            yield Snapshot(
                tuple(self._views.living(names)), self.reach(), dict(self.journal.vector)
            )
            while True:
                yield await watcher.next()
        finally:
            self._watchers.discard(watcher)

    def types(self, names: Iterable[str]) -> Sequence[type[Message]]:
        """The message classes of entities by their full names. Raises `NotReplicated`."""
        return [self._schema.entity(name).message_class for name in names]

    def reach(self) -> Mapping[str, Reach]:
        """How the group's regions stand, the own included: whether they live, as far as is known.

        A region whose own link is down is reachable while another region hears it.
        """
        now = self._monotonic_ms()
        found = {self.region: Reach(True, self.now_ms())}
        for peer in self.peers:
            reachable = self._hearing.reachable(peer, now)
            found[peer] = Reach(reachable, self._last_heard.get(peer))
        return found

    def status(self) -> status_pb2.GroupStatus:
        """How the group stands: position, digest and links.

        Other threads than the group's, such as those that collect metrics, get what stood within
        the last second.
        """
        if threading.get_ident() == self._thread:
            self._last_status = self._status()
        return self._last_status

    def _status(self) -> status_pb2.GroupStatus:
        journal = self.journal
        lagging = Lagging(journal, self.members.durable, self.log, self.now_ms())
        silences = {p: self._hearing.lost_ms(p, self._monotonic_ms()) for p in self.peers}
        return status_pb2.GroupStatus(
            group=self.name,
            origin=frame_pb2.Origin(
                region=journal.origin.region, incarnation=journal.origin.incarnation
            ),
            vector=vector_to_proto(journal.vector),
            digest=self._scrubber.digest(),
            entities=self._entities - self._parked.beside,
            links=map(lagging.unacknowledged, self._links.status()),
            lags=lagging.origins(self._links.known, silences),
            waiting=lagging.waiting(self._links.relayed),
            members=self.members.status(),
            pairs=journal.integrity.pairs(self.peers, self.now_ms()),
            integrity=self._scrubber.status(),
            horizon=vector_to_proto(self._horizon.vector),
            journal_bytes=self.log.journal_bytes,
            snapshot=self._horizon.snapshot(),
            parked=self._parked.status(),
            entities_of_unknown_types=self._parked.foreign,
        )

    # For the links and for claims.

    async def claim(self, by: str, request: link_pb2.ClaimRequest) -> link_pb2.ClaimResponse:
        """What a peer is told that asks for an operation. Raises `StoreError`."""
        return await self._claiming.answer(by, request)

    @property
    def operations_doubled(self) -> int:
        """Operations that two regions did, as found here since the start."""
        return self._operations.doubled

    def claimed_from(self) -> builtins.list[str]:
        """The regions that may have done an operation: all members but this one."""
        return [peer for peer in self.peers if self.members.table.holds(peer)]

    def position(self) -> Vector:
        """What is here."""
        return self.journal.vector

    async def fence(self, operation: Operation, time_ms: int) -> None:
        """Makes durable that an operation was granted to another region."""
        await self._committer.run(lambda: self._store.fence(operation, time_ms))

    def now_ms(self) -> int:
        """The wall clock in milliseconds."""
        return self._clock() // 1_000_000

    def heard(self, peer: str) -> None:
        """A peer sent something."""
        self._hearing.heard(peer, self._monotonic_ms())
        self._last_heard[peer] = self.now_ms()

    def acknowledged(self, peer: str, vector: Mapping[Origin, int]) -> None:
        """A peer said on its own stream what it has on disk."""
        self.members.durable.acknowledged(peer, vector)
        self._acknowledging.look()

    def heard_of(self, clocks: Mapping[str, int]) -> None:
        """A heartbeat named these clocks of regions."""
        for peer in self._hearing.heard_of(clocks, self._monotonic_ms()):
            self._last_heard[peer] = self.now_ms()

    @property
    def clocks(self) -> Mapping[str, int]:
        """The clocks of the peers' newest heartbeats, to pass on."""
        return self._hearing.clocks

    def showed(self, peer: str, wall_ms: int) -> None:
        """A peer said what its wall clock shows."""
        self.drift.heard(peer, wall_ms, self._monotonic_ms())

    def ahead_ms(self) -> Mapping[str, int]:
        """By peer heard lately, how far the wall clock here is ahead of its."""
        return self.drift.ahead_ms(self.now_ms(), self._monotonic_ms())

    def silence_ms(self, peer: str) -> int | None:
        """For how long a peer has been silent; None if it was never heard."""
        return self._hearing.silence_ms(peer, self._monotonic_ms())

    @property
    def commit_signals(self) -> set[asyncio.Event]:
        """Events that are set after each commit."""
        return self._links.signals

    @property
    def linked(self) -> set[str]:
        """The peers that are heard."""
        return self._linked

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
        self._entities += visible.living
        if self._watchers and (visible.after or visible.conflicts or visible.residents):
            changes = self._views.changes(visible)
            decided = tuple(self._conflict_views(visible.conflicts))
            for watcher in tuple(self._watchers):
                watcher.offer(Batch(changes, decided))
        self._operations.met(visible.doubled)
        for frame in visible.frames:
            self.changes_applied += frame.count
            if self._on_applied is not None and frame.origin.region != self.region:
                self._on_applied(self._applied(frame))
        for line in self.members.look():
            _log.warning("group %s: %s", self.name, line)
            self._acknowledging.look()
        self._parked.look(visible)
        self._links.committed()
        self._committing.look()
        self._rights.look(visible.after)
        self._hand_over()

    def _hand_over(self) -> None:
        if not self.left:
            self._rights.hand_over()

    def _applied(self, frame: Frame) -> Applied:
        return Applied(
            group=self.name,
            origin=frame.origin,
            first=frame.first,
            last=frame.last,
            trace_parents=frame.trace_parents,
            newest_ms=milliseconds(frame.newest),
        )

    async def _watch_reach(self) -> None:
        for tick in itertools.count():
            await asyncio.sleep(_TICK_SECONDS)
            if tick % _TICKS_OF_STATUS == 0:
                self.members.mark()
                self.status()
            if self.journal.pass_time(self.now_ms()):
                self._committer.wake()
            self._hand_over()
            self.members.follow_up()
            reach = self.reach()
            reachable = {region: each.reachable for region, each in reach.items()}
            if reachable != self._reachable:
                self._reachable = reachable
                for watcher in tuple(self._watchers):
                    watcher.offer(ReachChanged(reach))
            now = self._monotonic_ms()
            linked = {peer for peer in self.peers if self._hearing.linked(peer, now)}
            self._linked = linked
            self._links.relay(linked)


def _link_max_age(contract: Contract) -> float | None:
    service = contract.services.get(LINK_SERVICE)
    for method in service.methods if service else ():
        if method.name == "Follow":
            return method.stream_max_age
    return None
