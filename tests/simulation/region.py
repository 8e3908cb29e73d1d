"""One region: the real core, driven as a group drives it, on a disk and a clock that may fail."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from google.protobuf.message import Message

from mesh.replication import Transaction, WriteContext, conflicts
from mesh.replication.core import entities, etags, horizon, receiving, rendering
from mesh.replication.core.batches import Batch, Visible, Write
from mesh.replication.core.cells import SET
from mesh.replication.core.clocks import MAX_AHEAD_MS, covers, milliseconds
from mesh.replication.core.digest import Digest
from mesh.replication.core.entities import EntityKey
from mesh.replication.core.errors import LinkFault
from mesh.replication.core.grants import Operation
from mesh.replication.core.journal import Journal
from mesh.replication.core.members import State
from mesh.replication.core.parked import KNOWN, Known
from mesh.replication.core.reach import Hearing
from tests.simulation import residency
from tests.simulation.clients import Call, Calls
from tests.simulation.damage import Damage
from tests.simulation.disk import Disk, Record
from tests.simulation.escrow import Escrow
from tests.simulation.follower import Follower, Stream
from tests.simulation.kinds import kind_of, value
from tests.simulation.model import Violation
from tests.simulation.office import Office
from tests.simulation.repeats import Repeats
from tests.support.signing import keyring

if TYPE_CHECKING:
    from tests.simulation.world import World

EPOCH_MS = 1_700_000_000_000
TICK_MS = 500
MANY = 20
"""So many regions tick half as often: in each, a tick looks at all links."""
LARGEST_WRITE = 3
FLUSH_PIECE = 1
FLUSH_MS = 2
RETRY_MS = 1000
SLOWEST_ACK_MS = 2000

OLDER_KNOWN = Known(KNOWN.rules - {SET}, KNOWN.kinds)
"""What the version with the older contract reads: one field is under a rule that is new as well."""


class Region:
    """A region's process, its disk and its clock, which outlive the process."""

    def __init__(self, world: World, name: str, peers: list[str]) -> None:
        self.world = world
        self.name = name
        self.peers = peers
        self._tick_ms = TICK_MS if len(peers) < MANY else 2 * TICK_MS
        self.disk = Disk()
        self.backup: list[Record] = []
        self.newest = True
        self.stays = residency.Stays()
        self.skew_ms = 0
        self.drift = 0.0
        self.turned_ms = 0
        """When the wall clock was set last."""
        self.disk_ms = 2
        self.disk_full = False
        self.up = False
        self.damage = Damage(self)
        self._life = 0
        self._same_disk = True

    @property
    def hidden(self) -> frozenset[str]:
        """The fields that nobody can read here."""
        return frozenset() if self.newest else frozenset({"labels"})

    # Its life.

    def start(self) -> None:
        """Starts the process, which recovers from its disk."""
        if self.up:
            return
        self.up = True
        self._life += 1
        known = KNOWN if self.newest else OLDER_KNOWN
        self.schema = residency.newest() if self.newest else residency.older()
        self.disk.fields |= self.schema.resident_fields
        self.schema.keep(self.disk.fields)
        recovered = self.disk.recover(known)
        self.world.made.note(self.disk.frames(), self.name)
        self.world.watch.learn(self.disk.frames())
        self.world.model.restarted(
            self.name, self.disk.frames(), self.disk.vector(), same_disk=self._same_disk
        )
        self._same_disk = True
        # The number of its life is what chance gives to each in a process.
        self.journal = Journal(
            self.name,
            self.peers,
            b"digest",
            recovered,
            self.wall_ms,
            self._life,
            known=known,
            keys=keyring(self.name, recovered.keys),
            process=self._life,
        )
        self.damage.started()
        self.hearing = Hearing(self.peers)
        self.office = Office(self)
        self.serving: dict[Stream, None] = {}
        self.followers = {peer: Follower(self, peer) for peer in self.peers}
        self.repeats = Repeats(self)
        self._pending: dict[int, tuple[Write, int]] = {}
        self.escrow = Escrow(self)
        self.calls = Calls(self)
        self._linked: set[str] = set()
        self._busy = False
        self._storing: Batch | None = None
        self.stability = horizon.Stability()
        self._unflushed = set(recovered.replayed)
        self._flushing: list[EntityKey] = []
        self._held_back: set[EntityKey] = set()
        self._watermark = dict(recovered.vector)
        for follower in self.followers.values():
            follower.open()
        self.world.timeline.after(self._tick_ms, self.living(self._tick))

    def run_version(self, *, newest: bool) -> None:
        """The process ends, and one of another version starts."""
        self.kill()
        self.newest = newest
        self.start()

    def kill(self) -> None:
        """Ends the process at once; its peers' connections break."""
        if not self.up:
            return
        self.up = False
        self.stays.killed()
        for stream in tuple(self.serving):
            stream.leave_source(telling=True)
        for follower in self.followers.values():
            for stream in tuple(follower.streams):
                stream.close()

    def lose_power(self, kept: float) -> None:
        """Ends the process without a word to the peers; of what was not synced, a part is kept."""
        if not self.up:
            return
        self.up = False
        self.stays.killed()
        self.disk.lose_power(kept)
        for stream in tuple(self.serving):
            stream.leave_source()
        for follower in self.followers.values():
            for stream in tuple(follower.streams):
                stream.leave_target()

    def replace_disk(self, records: list[Record]) -> None:
        """The process ends and its disk is another."""
        self.kill()
        self.disk.replace(records)
        self.stays.disk_replaced()
        self._same_disk = False
        self.world.disks_lost = True
        self.world.clients.clear()
        self.world.model.disk_lost(r.disk.vector() for r in self.world.regions.values())

    def living(self, do: Callable[[], None]) -> Callable[[], None]:
        """`do`, unless this life is over by then."""
        life = self._life

        def unless_over() -> None:
            if self.up and self._life == life:
                do()

        return unless_over

    @property
    def wall_ms(self) -> int:
        """The wall clock as this region has it."""
        now = self.world.timeline.now
        return EPOCH_MS + now + self.skew_ms + int(now * self.drift)

    # Writing.

    @property
    def seen(self) -> int:
        """The writes that a writer sees here."""
        return self.world.model.held[self.name].writes | self.pending

    @property
    def pending(self) -> int:
        """The writes that are in flight here."""
        pending = 0
        for _, bit in self._pending.values():
            pending |= bit
        return pending

    def write(
        self,
        number: int,
        change: Callable[[Transaction], None],
        stays: residency.Values,
        call: Call | None = None,
    ) -> None:
        """Queues a write under its number in the model; `stays` is what it keeps in the region."""
        now_ms = self.wall_ms
        self.journal.begin_write(now_ms)
        if self.journal.members.of(self.name).state in (State.LEAVING, State.LEFT):
            raise Violation(f"{self.name} takes writes, though it leaves or has left")
        self.world.model.wrote(self.name, number)
        transaction = Transaction(
            self.journal, self.schema, WriteContext(actor=str(number)), now_ms
        )
        change(transaction)
        write = transaction.finish(None)
        if not write.count and not write.residents:
            return
        # What changes nothing elsewhere is nothing to the model.
        bit = 1 << number if write.count else 0
        self._pending[id(write)] = write, bit
        if bit and call is not None:
            self.calls.made(bit, call)
        self.stays.begun(write, stays)
        self.journal.submit(write)
        done = self.living(lambda: self._check_done(number, bit))
        self.world.timeline.after(SLOWEST_ACK_MS, done)
        self.commit()

    def writing(self, number: int) -> bool:
        """Whether a write is neither stored nor refused yet."""
        return any(1 << number == each for _, each in self._pending.values())

    def _check_done(self, number: int, bit: int) -> None:
        if bit and self.writing(number) and not self.disk_full:
            raise Violation(f"{self.name} has not answered write {number} for {SLOWEST_ACK_MS} ms")

    def refuse(self, writes: list[Write]) -> None:
        """Writes that are lost, and known to be."""
        for write in writes:
            _, bit = self._pending.pop(id(write))
            self.world.model.refused |= bit
            self.stays.ended(write, stored=False)

    # Its disk.

    def commit(self) -> None:
        """Begins to store what may be stored, if nothing is being stored."""
        if self._busy or not self.up:
            return
        batch = self.journal.next_batch()
        if batch is None:
            return
        self._check_time(batch)
        self._busy = True
        self._storing = batch
        if not self.disk_full:
            self.disk.commit(batch.frames, batch.settled, batch.staging, batch.keys)
        outcome = self._failed if self.disk_full else self._stored
        self.world.timeline.after(self.disk_ms, self.living(lambda: outcome(batch)))

    def _check_time(self, batch: Batch) -> None:
        """Nothing from the future is applied before its time."""
        if self.world.timeline.now - self.turned_ms <= 2 * self._tick_ms:
            return
        for frame in batch.frames:
            ahead_ms = milliseconds(frame.newest) - self.wall_ms
            if frame.origin.region != self.name and ahead_ms > MAX_AHEAD_MS:
                raise Violation(f"{self.name} applies what is {ahead_ms} ms ahead of its clock")

    def _stored(self, batch: Batch) -> None:
        self._busy = False
        self.disk.sync()
        self.world.made.note(batch.frames, self.name)
        visible = self.journal.stored(batch)
        if self._installing:
            self.world.model.reaches(self.name, batch.vector)
            self.world.snapshots += 1
        self._storing = None
        self.world.watch.check(self, visible)
        self.world.model.shows(self.name, visible.frames)
        self._unflushed.update(visible.after, visible.idle)
        for write in batch.writes:
            _, bit = self._pending.pop(id(write))
            self.world.model.acknowledged |= bit
            if bit and batch.local is not None:
                self.calls.stored(bit, {batch.local.origin: batch.local.last})
            self.stays.ended(write, stored=True)
            self.office.acknowledged(bit.bit_length() - 1)
        self.refuse(visible.lost)
        self.office.look()
        for follower in self.followers.values():
            follower.settle()
        self.pump()
        self._flush_piece()
        self.escrow.stored(visible.after)
        self.commit()

    @property
    def _installing(self) -> bool:
        """Whether a snapshot is about to become visible."""
        staging = self._storing.staging if self._storing else None
        return staging is not None and staging.install is not None

    @property
    def replacing(self) -> Collection[EntityKey]:
        """The entities of which the commit under way will put another state in its place."""
        return self._storing.merged.after.keys() if self._storing else ()

    def _failed(self, batch: Batch) -> None:
        self._busy, self._storing = False, None
        self.refuse(self.journal.failed(batch))
        self.world.timeline.after(RETRY_MS, self.living(self.commit))

    def fence(self, operation: Operation, then: Callable[[], None]) -> None:
        """Stores that an operation was granted, between two commits."""
        after = self.world.timeline.after
        if self._busy:
            after(1, self.living(lambda: self.fence(operation, then)))
            return
        self._busy = True
        if not self.disk_full:
            self.disk.fence(operation, self.wall_ms)
        after(self.disk_ms, self.living(lambda: self._fenced(then)))

    def _fenced(self, then: Callable[[], None]) -> None:
        self._busy = False
        if not self.disk_full:
            self.disk.sync()
            then()
        self.commit()

    def flush(self) -> None:
        """Begins to store states; commits go in between the pieces."""
        if self.up and not self._flushing:
            self._flushing, self._unflushed = sorted(self._unflushed), set()
            self._watermark = dict(self.journal.vector)
            if not self._busy:
                self._flush_piece()

    def _flush_piece(self) -> None:
        if not self._flushing or self._installing:
            return
        piece = self._flushing[-FLUSH_PIECE:]
        del self._flushing[-FLUSH_PIECE:]
        integrity, committed = self.journal.integrity, self.journal.committed
        kept = integrity.kept(piece)
        self._held_back |= {
            e
            for e in piece
            if not integrity.storable(e)
            or (e in kept and e in committed and entities.fingerprint(e, committed[e]) != kept[e])
        }
        left = (e for e in piece if e in committed)
        states = {e: committed[e] for e in left if e not in self._held_back}
        whole = not self._flushing and not self._held_back
        self.disk.flush(states, self._watermark if whole else None)
        if not self._flushing:
            self._unflushed |= self._held_back
            self._held_back = set()
        if self._flushing and not self._busy:
            self.world.timeline.after(FLUSH_MS, self.living(self._flush_piece))

    def trim(self) -> None:
        """Cuts the journal as far as it may be."""
        if not self.up:
            return
        below = horizon.least(self.journal.vector, self.office.membership.behind().values())
        cut = self.disk.trim(self.journal.captures.pinned(below, self.wall_ms))
        for other in self.world.regions.values():
            if self.world.disks_lost or not self.journal.members.holds(other.name):
                continue
            if not covers(other.disk.vector(), cut):
                raise Violation(f"{self.name} cuts what {other.name} has not on disk yet")

    def forget(self) -> None:
        """Drops tombstones that may be dropped."""
        if not self.up:
            return
        journal = self.journal
        journal.digest()  # tombstones are known once they are hashed
        flushed = self.disk.flushed()
        words = self.office.membership.words()
        if not self.stability.look(journal.vector, journal.seen.clocks, words, flushed):
            return
        tombstones = {e: journal.committed[e] for e in journal.integrity.digest.tombstones}
        dropped = journal.forget(tombstones, self.stability.clocks, self.wall_ms)
        self.disk.forget(dropped)
        self.damage.forgotten(dropped)
        self.world.forgotten += len(dropped)
        for other in self.world.regions.values():
            may = other.up and not self.world.disks_lost and journal.members.remembered(other.name)
            for entity in dropped if may else ():
                state = other.journal.committed.get(entity)
                ended = tombstones[entity].generation
                if state is not None and not state.deleted and state.generation <= ended:
                    raise Violation(f"{self.name} forgets {entity[1]}, which lives in {other.name}")

    # Its links.

    def pump(self) -> None:
        """Sends what there is to send."""
        for stream in tuple(self.serving):
            stream.pump()

    def _tick(self) -> None:
        now = self.world.timeline.now
        self._linked = {peer for peer in self.peers if self.hearing.linked(peer, now)}
        lost = set(self.peers) - self._linked
        views = {peer: follower.view for peer, follower in self.followers.items()}
        for peer, follower in self.followers.items():
            follower.relay(lost | receiving.bereft(peer, views, self.journal.taken))
        for follower in self.followers.values():
            follower.tick()
            follower.settle()
        self.damage.tick()
        self.pump()
        if self.journal.arrivals.pass_time(self.wall_ms):
            self.commit()
        self.office.membership.follow_up()
        self.escrow.hand_over()
        self.check_memory()
        if not self.world.disks_lost:  # what went with a disk was known, and is nowhere
            self.world.made.check(self)
        self.world.timeline.after(self._tick_ms, self.living(self._tick))

    def check_memory(self) -> None:
        """What waits, for its dependencies or a signature, is no more than links were granted."""
        waiting = sum(
            frame.count for frames in self.journal.arrivals.waiting.values() for frame in frames
        )
        for follower in self.followers.values():
            for stream in follower.streams:
                waiting += sum(frame.count for frame in stream.receiver.relayed)
        streams = sum(len(follower.streams) for follower in self.followers.values())
        # What came over a stream that is over still waits; the next one brings the same again.
        most = max(streams, len(self.peers)) * len(self.peers)
        most *= receiving.WINDOW_CHANGES + LARGEST_WRITE
        if waiting > most:
            raise Violation(f"{self.name} holds {waiting} changes that wait, beyond {most}")

    def repaired(self, visible: Visible) -> None:
        """A state was put in the place of one that was damaged."""
        self._unflushed |= visible.after.keys()

    @property
    def linked(self) -> set[str]:
        """The peers that are heard."""
        return self._linked

    def fault(self, peer: str, fault: LinkFault) -> None:
        """A link ended with a typed error."""
        self.world.faulted(self.name, peer, fault)

    # Reading.

    def get(self, key: str) -> Message | None:
        """An entity as every reader of the newest contract sees it."""
        kind = kind_of(key)
        state = self.journal.committed.get((kind.name, key))
        if state is None or state.deleted:
            return None
        schema = kind.schema.entities[kind.name]
        return kind.message_class.FromString(
            rendering.render(state, schema.rules, schema.key_field(key))
        )

    def etag(self, key: str) -> bytes | None:
        """What names a reading of an entity; None if it does not live."""
        state = self.journal.committed.get((kind_of(key).name, key))
        return None if state is None or state.deleted else etags.encode(state)

    def standing(self, key: str, field: str) -> list[Any]:
        """The values that stand in a KEEP_BOTH field."""
        kind = kind_of(key)
        state = self.journal.committed[kind.name, key]
        found = conflicts.versions(state, kind.schema.entities[kind.name], field)
        return [value(each.message, field) for each in found]

    def digest(self) -> bytes:
        """The digest of the state, computed anew and compared with the one that is kept."""
        digest = Digest(self.journal.committed).value()
        if digest != self.journal.digest():
            raise Violation(f"{self.name} keeps a digest that is not its state's")
        return digest
