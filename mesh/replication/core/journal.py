"""A group in one region: what is applied, what is in flight, what waits.

Writes and frames queue; `next_batch` hands all of them, as far as they may be applied, to a store;
`stored` makes them visible, `failed` takes the local ones back. One batch is in flight at a time:
writers who come meanwhile share the next commit. Readers see what is stored; writers also see the
writes before them that are not stored yet.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain

from isthmus.replication.v1 import frame_pb2

from mesh.replication.core import generations, members
from mesh.replication.core.arrivals import Arrivals
from mesh.replication.core.batches import (
    Batch,
    Recovered,
    Seen,
    Visible,
    Write,
    receipt_of,
    receipts_of,
)
from mesh.replication.core.cells import Stamp
from mesh.replication.core.clocks import (
    COUNTER_BITS,
    MAX_AHEAD_MS,
    HybridClock,
    Origin,
    Vector,
    above,
    covers,
    milliseconds,
    vector_to_proto,
)
from mesh.replication.core.columns import joined
from mesh.replication.core.damage import STORED_FRAME
from mesh.replication.core.entities import EntityKey, EntityState
from mesh.replication.core.errors import (
    LinkFault,
    NotAMember,
    RestoredBackup,
    WrongRegion,
)
from mesh.replication.core.frames import (
    GENESIS,
    Frame,
    build,
    parse,
)
from mesh.replication.core.intake import Intake
from mesh.replication.core.integrity import Integrity
from mesh.replication.core.lag import Lag
from mesh.replication.core.life import Life, LifeStart
from mesh.replication.core.merging import Merging
from mesh.replication.core.parked import KNOWN, Known, Unread, beside_of, holds, unread
from mesh.replication.core.pending import Pending
from mesh.replication.core.receipts import ReceiptKey
from mesh.replication.core.recent import Recent
from mesh.replication.core.residents import Residents
from mesh.replication.core.signatures import Head, Keyring
from mesh.replication.core.snapshots import (
    Capture,
    Captures,
    Header,
    Position,
    Staging,
    snapshot_id,
)
from mesh.replication.core.speakers import Speakers


class Journal:
    """The state machine of a group in one region.

    `salt` is chosen by chance, for the incarnations that it takes (`SALT_BITS`). `home` is the
    region that decides about members until something is decided; the same in all regions. What
    comes and is not `known` is parked. `keys` signs what is written here, and checks what is
    relayed; without it no relayed frame is taken. `process` tells this
    process from another under the same name; 0: it does not say.

    `committed` and `vector` always belong together. An origin's tail is vouched for by all peers
    before it is continued: a write that comes earlier goes under a new incarnation, so that a
    restored backup never says two things under one sequence number.
    """

    def __init__(
        self,
        region: str,
        peers: Iterable[str],
        contract_digest: bytes,
        recovered: Recovered,
        now_ms: int,
        salt: int = 0,
        home: str = "",
        known: Known = KNOWN,
        keys: Keyring | None = None,
        process: int = 0,
    ) -> None:
        peers = tuple(peers)
        self.region = region
        self.keys = Keyring("") if keys is None else keys
        self.process = process
        self.speakers = Speakers()
        self._beat = 0
        self._told: tuple[Vector, frame_pb2.Vector] | None = None
        self.contract_digest = contract_digest
        self.committed = recovered.states
        self.vector = recovered.vector
        self.seen = Seen(self.vector, recovered.clocks)
        # What stays in the region is in no frame, and is followed by later writes all the same.
        stays = (state.changed.clock for state in recovered.residents.values())
        self.clock = HybridClock(max(recovered.clock, *stays, 0))
        self.implied: Vector = {}
        """What changes applied in this life depend on, of other origins than their own."""
        self.residents = Residents(recovered.residents)
        self.residents.doubt(self.committed)
        self.known = known
        self._parked = recovered.parked
        self.lag = Lag()
        self.signatures = recovered.signatures
        """Of each origin's last frame, its signature."""
        self._heads = recovered.heads
        self.arrivals = Arrivals(self.vector, self._heads, now_ms)
        self._pending = Pending(self.committed)
        self._in_flight: Batch | None = None
        self.integrity = Integrity(self, recovered.fingerprints)
        self.captures = Captures()
        """The snapshots that others are given."""
        self.intake = Intake(recovered.staged, known)
        """The snapshot that this region is given."""
        self.integrity.damaged(recovered.damaged, now_ms)
        lives = {life: n for life, n in self.vector.items() if life.region == region}
        self._home = home or min(region, *peers)
        self.members = members.of_state(self.committed.get(members.ENTITY), self._home)
        self.life = Life(region, peers, lives, self.members.remembered, now_ms, salt)
        self._salvage(recovered, now_ms)

    def _salvage(self, recovered: Recovered, now_ms: int) -> None:
        """Goes on after damage: what the cut took off the journal comes from peers, or is loose."""
        for place in recovered.cut:
            detail = "the journal is damaged here, and goes on before it"
            self.integrity.damages.add(STORED_FRAME, place, now_ms, detail)
        ended = {origin for origin, _ in recovered.cut} | {f.origin for f in recovered.loose}
        if self.origin in ended or (
            not self.life.recovered and any(origin.region == self.region for origin in ended)
        ):
            # What that life wrote beyond this is not to be written anew.
            self._renew(now_ms, LifeStart.DAMAGED_JOURNAL)
        for stored in recovered.loose:
            with suppress(LinkFault):  # it does not follow from what is here: it stays loose
                frame = parse(stored.body, stored.hash, self.known)
                frame.signature = stored.signature
                self.take(frame)

    # Local writes.

    def look(self, entity: EntityKey) -> EntityState | None:
        """An entity as a writer sees it: with the writes in flight."""
        return self._pending.look(entity)

    def look_all(self, entities: Sequence[EntityKey]) -> list[EntityState | None]:
        """As `look`, for many."""
        return self._pending.look_all(entities)

    def entities(self) -> Iterator[EntityKey]:
        """The keys of all entities as a writer sees them."""
        return self._pending.entities()

    def begin_write(self, now_ms: int) -> None:
        """Before a write looks at anything: settles under which origin it goes.

        Raises `NotAMember` if the region leaves its group or left it.
        """
        self.check_writes()
        if not self.life.confirmed:
            self._renew(now_ms, LifeStart.UNCONFIRMED)

    def check_writes(self) -> None:
        """Raises `NotAMember` if the region leaves its group or left it."""
        if not self.members.writes(self.region):
            state = self.members.of(self.region).state.name
            raise NotAMember(
                f"{self.region} is {state} and takes no writes: write in another region, or take "
                f"it in again with `isthmus members join {self.region}`"
            )

    def clock_ms(self, now_ms: int) -> int:
        """The time by the hybrid clock, which does not go back."""
        return max(now_ms, milliseconds(self.clock.last))

    def stamp(self, now_ms: int) -> Stamp:
        """The stamp of the next local change."""
        return Stamp(self.clock.tick(now_ms), *self.origin)

    @property
    def told(self) -> frame_pb2.Vector:
        """`vector` as a message: made once for all links."""
        if self._told is None or self._told[0] is not self.vector:
            self._told = self.vector, vector_to_proto(self.vector)
        return self._told[1]

    def beat(self, now_ms: int) -> int:
        """The clock of the next heartbeat: higher than the last, unless time was set back.

        It is none of the clock of changes, which a wall clock that is wrong must not move.
        """
        if milliseconds(self._beat) - now_ms > MAX_AHEAD_MS:
            self._beat = 0
        self._beat = max(self._beat + 1, now_ms << COUNTER_BITS)
        return self._beat

    def submit(self, write: Write) -> None:
        """Queues a write, which later writes see at once and readers once it is stored."""
        self.residents.submit(write.residents)
        self._pending.add(write)

    @property
    def regions(self) -> frozenset[str]:
        """The members of the group that take writes, this one included."""
        return frozenset(filter(self.members.writes, (self.region, *self.life.peers)))

    @property
    def quiet(self) -> bool:
        """Whether no local write is queued or in flight."""
        return not self._pending and (self._in_flight is None or not self._in_flight.writes)

    @property
    def storing(self) -> bool:
        """Whether a batch is in flight."""
        return self._in_flight is not None

    # Frames from elsewhere.

    def read(
        self,
        body: bytes,
        hash: bytes,
        now_ms: int,
        regions: Container[str] | None = None,
        signature: bytes = b"",
    ) -> Frame:
        """Reads a frame from a peer, which is not taken yet.

        `regions` are those whose frames the peer may send, if not all. Raises `WrongRegion`,
        `ChainBroken`, `FormatUnknown`, and `RestoredBackup` if it is of this very origin and not
        here. One that comes from the future, by the clock here, is taken like any other, and not
        applied before its time.
        """
        self.arrivals.pass_time(now_ms)
        frame = parse(body, hash, self.known)
        frame.signature = signature
        origin = frame.origin
        if regions is not None and origin.region not in regions:
            raise WrongRegion(
                f"it sent changes of {origin.region!r}, which nobody had asked it for"
            )
        if frame.last > self.taken.get(origin, 0) and origin == self.origin:
            where = f"the frame of {origin} at {frame.first}"
            raise RestoredBackup(f"{where} was written by this region, which lost it")
        return frame

    def take(self, frame: Frame) -> bool:
        """Takes a frame that is vouched for; tells whether it is new here.

        Raises `ChainBroken`, and `HistoryTruncated` (a gap before it); it is not kept then.
        """
        return self.arrivals.take(frame)

    @property
    def taken(self) -> Mapping[Origin, int]:
        """How far each origin has come, stored or not."""
        return self.arrivals.vector

    @property
    def known_of(self) -> Mapping[Origin, int]:
        """How far each origin has come, by what was taken and by what that depends on.

        And by a snapshot that comes in: it may be installed when its giver is lost.
        """
        return above(self.arrivals.known_of, self.intake.vector)

    def brings(self, operation: ReceiptKey) -> bool:
        """Whether a frame that came, and is not stored yet, has an operation's receipt."""
        storing = self._in_flight.frames if self._in_flight else []
        return any(
            receipt[:3] == operation
            for frame in chain(self.arrivals, storing)
            for receipt in frame.receipts
        )

    # The region's life.

    @property
    def origin(self) -> Origin:
        """The region and its present incarnation."""
        return self.life.origin

    def learn(self, peer: str, vector: Mapping[Origin, int], now_ms: int) -> list[Write]:
        """Compares with what a peer says it has.

        If it knows more of the current origin than is here, an old backup was restored: the region
        takes a new incarnation. Returns the queued writes that are lost by it, to be refused.
        """
        if vector.get(self.origin, 0) > self.vector.get(self.origin, 0):
            return self._renew(now_ms, LifeStart.RESTORED_BACKUP)
        return []

    def confirm(self, peer: str, taken: Mapping[Origin, int], now_ms: int) -> list[Write]:
        """A peer said on a stream that follows this life what it has taken, stored or not.

        Once all peers have, the origin is continued. Else as `learn`.
        """
        lost = self.learn(peer, taken, now_ms)
        self.life.confirm(peer, taken)
        return lost

    @property
    def former(self) -> list[Origin]:
        """The former lives of this region of which all is known here: see `Life.former`."""
        return self.life.former(self.vector, self.members.remembered)

    def whole(self, peer: str) -> bool:
        """Whether a peer said in this life that it knows no more of any life of this region."""
        return self.life.whole(peer, self.vector)

    def _renew(self, now_ms: int, start: LifeStart) -> list[Write]:
        self.life.renew(now_ms, start)
        return self._drop() if self._pending else []

    # The way to the store.

    def next_batch(self) -> Batch | None:
        """All that may be stored now; None if that is nothing or a batch is in flight."""
        if self._in_flight is not None:
            return None
        if self.intake.ready:
            self._in_flight = self._install()
            return self._in_flight
        frames: list[Frame] = []
        vector = dict(self.vector)
        staging = self.intake.staging()
        writes, local = self._close_local()
        if local is not None:
            frames.append(local)
            vector[local.origin] = local.last
        frames += self.arrivals.admit(vector)
        nothing = not frames and not writes and staging is None
        if nothing and not self.residents.doubted:
            return None
        receipts = [receipt_of(write) for write in writes if write.receipt is not None]
        merged = self._merge(writes, frames, local)
        batch = self._settle(
            Batch(frames, writes, vector, receipts, local, merged, staging=staging)
        )
        if nothing and not batch.settled:
            return None
        self._in_flight = batch
        return batch

    def _settle(self, batch: Batch) -> Batch:
        merged = batch.merged
        batch.keys = tuple(self.keys.unstored.values())
        batch.settled = self.residents.settle(
            batch.residents, merged.after, self.committed, self.integrity.proven
        )
        merged.residents = {e: self.residents.committed.get(e) for e in batch.settled}
        return batch

    def _install(self) -> Batch:
        """A commit of its own makes a whole snapshot visible."""
        positions = {origin: self.head(origin) for origin in self.vector}
        visible = Visible()
        staging = self.intake.install(self.committed, positions, visible, self.integrity)
        assert staging.install is not None  # noqa: S101 # as it says
        vector = {origin: p.sequence for origin, p in staging.install.positions.items()}
        return self._settle(Batch([], [], vector, [], None, visible, staging=staging))

    def _close_local(self) -> tuple[list[Write], Frame | None]:
        writes = self._pending.close()
        if not any(write.count for write in writes):
            return writes, None
        first = self.vector.get(self.origin, 0) + 1
        head = self._heads.get(self.origin, GENESIS)
        seen, clocks = writes[0].seen or self.seen
        frame = build(
            self.origin,
            first,
            head,
            joined([write.columns for write in writes if write.count]),
            seen,
            self.contract_digest,
            clocks,
            receipts_of(writes),
        )
        frame.signature = self.keys.sign(Head(frame.origin, frame.last, frame.newest, frame.hash))
        return writes, frame

    def _merge(self, writes: Sequence[Write], frames: list[Frame], local: Frame | None) -> Visible:
        """What storing a batch will make visible."""
        merging = Merging(self.committed, self.vector)
        for frame in frames:
            if frame is local:
                befores = list(chain.from_iterable(write.befores for write in writes))
                afters = list(chain.from_iterable(write.afters for write in writes))
                merging.local(frame, befores, afters)
            else:
                merging.received(frame)
        return Visible(
            merging.before,
            merging.after,
            merging.living,
            frames,
            merging.conflicts,
            idle=merging.idle,
        )

    def stored(self, batch: Batch) -> Visible:
        """The batch is durable: makes it visible."""
        visible = batch.merged
        self.captures.replaced(visible.before)
        self.committed.update(visible.after)
        self.integrity.visible(visible)
        if batch.staging is not None and batch.staging.install is not None:
            self.integrity.recent = Recent(batch.vector)
            self.integrity.damages.cut_off(batch.vector)
        clocks = dict(self.seen.clocks)
        for frame in batch.frames:
            self._heads[frame.origin] = frame.hash
            self._parked |= frame.parked
            self.signatures[frame.origin] = frame.signature
            clocks[frame.origin] = frame.newest
            for origin, sequence in frame.dependencies.items():
                if sequence > self.implied.get(origin, 0):
                    self.implied[origin] = sequence
            if frame is batch.local:
                self.arrivals.came(frame)
            else:
                self.clock.receive(frame.newest)
        if batch.staging is not None:
            self._staged(batch.staging, clocks)
        self.vector = batch.vector
        self.seen = Seen(self.vector, clocks)
        self.residents.stored(batch.settled, batch.residents)
        self.keys.stored(batch.keys)
        self._pending.stored(batch)
        self._in_flight = None
        if members.ENTITY in visible.after:
            self._decided(visible)
        return visible

    def _decided(self, visible: Visible) -> None:
        self.members = members.of_state(self.committed[members.ENTITY], self._home)
        self.life.count(self.members.remembered)
        if not self.members.writes(self.region):
            # What comes behind that decision would be of a region that is drained already.
            visible.lost = self._drop()

    def _staged(self, staging: Staging, clocks: Vector) -> None:
        self.intake.stored(staging)
        if staging.install is None:
            return
        self._parked |= staging.install.parked
        for origin, (_, hash, clock, signature) in staging.install.positions.items():
            self._heads[origin] = hash
            self.signatures[origin] = signature
            clocks[origin] = clock
            self.clock.receive(clock)
        self.arrivals.skip(staging.install.positions)

    def failed(self, batch: Batch) -> list[Write]:
        """The batch was not stored: returns the local writes that are lost, to be refused.

        Writes queued behind it had seen it, so they go too. Frames wait again.
        """
        self._in_flight = None
        if batch.staging is not None:
            self.intake.failed(batch.staging)
        self.arrivals.again(frame for frame in batch.frames if frame is not batch.local)
        return [*batch.writes, *self._drop()]

    def _drop(self) -> list[Write]:
        in_flight = self._in_flight.writes if self._in_flight else []
        self.residents.drop(part for write in in_flight for part in write.residents)
        return self._pending.drop(in_flight)

    def chain_end(self, origin: Origin) -> tuple[int, bytes]:
        """How far an origin's frames go here, and the hash of the last."""
        return self.vector.get(origin, 0), self._heads.get(origin, GENESIS)

    # What others are told, and what is mended by what others tell.

    def replace(self, entity: EntityKey, state: EntityState | None) -> Visible | None:
        """Puts an entity's state in the place of one that is damaged.

        Returns what becomes visible by it; None, and does nothing, while a write of it is on its
        way: that one saw what was damaged.
        """
        batch = self._in_flight
        if entity in self._pending or (batch is not None and entity in batch.merged.after):
            return None
        if batch is not None and any(entity in frame.columns.entities for frame in batch.frames):
            return None  # what has no effect on what is damaged may have one on what is whole
        before = self.committed.pop(entity, None)
        self.captures.spoil()
        self.residents.replaced(entity)
        visible = Visible()
        if state is not None:
            self.committed[entity] = after = state
            if holds(state):
                self._parked.add(entity)
        elif before is not None:
            after = before._replace(deleted=True, cells={})
            self.integrity.digest.forget((entity,))
        else:
            return visible
        visible.before[entity], visible.after[entity] = before, after
        visible.living = (before is None or before.deleted) - after.deleted
        self.integrity.digest.touch((entity,) if state is not None else ())
        return visible

    def forget(
        self, tombstones: Iterable[EntityKey], stable: Mapping[Origin, int], now_ms: int
    ) -> list[EntityKey]:
        """Drops those tombstones whose deletes have clocks up to these: see `core.horizon`.

        Returns them; what is written anew just now stays, and so does what is not old enough.
        """
        clock_ms = self.clock_ms(now_ms)
        in_flight = self._in_flight.merged.after if self._in_flight else {}
        dropped = []
        for entity in tombstones:
            state = self.committed.get(entity)
            if state is None or not state.deleted or entity in self._pending or entity in in_flight:
                continue
            clock, region, incarnation, _ = state.changed
            seen = clock <= stable.get(Origin(region, incarnation), 0)
            # What is damaged is repaired before it is believed that it is deleted.
            if seen and generations.forgettable(state, clock_ms) and self.integrity.proven(entity):
                dropped.append(entity)
        self.captures.replaced({entity: self.committed[entity] for entity in dropped})
        for entity in dropped:
            del self.committed[entity]
        self.integrity.digest.forget(dropped)
        return dropped

    def head(self, origin: Origin) -> Position:
        """How far an origin is here, with its chain's hash, its clock and its signature there."""
        return Position(
            self.vector.get(origin, 0),
            self._heads.get(origin, GENESIS),
            self.seen.clocks.get(origin, 0),
            self.signatures.get(origin, b""),
        )

    def capture(
        self, id: bytes, now_ms: int, durable: Mapping[Origin, int] | None = None
    ) -> Capture:
        """What is committed, for a peer: the snapshot that it has a part of, if that is held.

        Another one if it has all of that by now (`durable`): it would wait for more without end.
        """
        self.captures.expire(now_ms)
        found = self.captures.find(id, now_ms) or self.captures.recent(now_ms)
        if found is not None and durable is not None and covers(durable, found.header.vector):
            found = None
        if found is None:
            positions = {origin: self.head(origin) for origin in self.vector}
            new = snapshot_id(self.origin, self.clock.last, now_ms, self.vector)
            keys = self.integrity.digest.entities()
            header = Header(new, self.region, positions, len(keys))
            until_ms = milliseconds(self.clock.last)
            sound = self.integrity.sound
            found = Capture(header, self.committed, keys, until_ms, now_ms, sound)
            self.captures.add(found)
        return found

    def digest(self) -> bytes:
        """The digest of what is committed and lives: 32 bytes."""
        return self.integrity.digest.value()

    @property
    def reads_all(self) -> bool:
        """Whether nothing here waits for a newer version.

        If something does, the digest is not to be compared: other regions may have read it.
        """
        while self._parked:
            entity = next(iter(self._parked))
            state = self.committed.get(entity)
            if state is not None and holds(state):
                return False
            self._parked.discard(entity)  # what a delete ended waits no more
        return True

    def parks(self, entity: EntityKey) -> bool:
        """Whether a change of an entity waits here for a newer version."""
        state = self.committed.get(entity)
        waits = entity in self._parked and state is not None and holds(state)
        return waits or beside_of(entity) in self._parked

    def unread(self) -> list[Unread]:
        """What waits here for a newer version, by type, path and rule."""
        return list(unread(self.committed, self._parked))
