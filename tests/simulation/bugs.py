"""Bugs that the simulation must find: each is put in by a patch, mostly of the core.

A check that never fails checks nothing. `BUGS` holds them by name, as context managers.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from mesh.replication import residency
from mesh.replication.core import (
    arrivals,
    cells,
    decisions,
    entities,
    frames,
    horizon,
    intake,
    journal,
    merging,
    pending,
    receiving,
    relayed,
    residents,
    snapshots,
    tokens,
)
from mesh.replication.core.batches import Batch
from mesh.replication.core.clocks import COUNTER_BITS, HybridClock, Origin
from mesh.replication.core.columns import of_changes
from mesh.replication.core.digest import Digest
from mesh.replication.core.durable import Durable
from mesh.replication.core.entities import UPSERT, EntityState
from mesh.replication.core.grants import Claims
from mesh.replication.core.journal import Journal
from mesh.replication.core.lag import Lag
from mesh.replication.core.members import Members, State
from mesh.replication.core.signatures import Keyring, Verdict
from mesh.replication.core.snapshots import Position
from mesh.replication.membership import ENTITY
from mesh.replication.schema import FieldSchema, GroupSchema
from mesh.replication.transaction import Transaction
from tests.simulation.bugs_of_calls import BUGS_OF_CALLS
from tests.simulation.bugs_of_conflicts import BUGS_OF_CONFLICTS
from tests.simulation.bugs_of_rules import BUGS_OF_RULES
from tests.simulation.disk import Disk
from tests.simulation.region import Region
from tests.simulation.repeats import Repeats

Bug = Callable[[], Iterator[None]]
BUGS: dict[str, Callable[[], Any]] = {}
FOCUS = {
    "a_repeat_asks_nobody": ("operation", "partition"),
    "a_snapshot_holds_what_came_after_it": ("trim",),
    "what_an_evicted_region_wrote_alone_is_dropped": ("members",),
    "a_readmitted_region_counts_by_what_it_said_before": ("members", "kill"),
    "an_evicted_region_is_linked": ("members",),
    "a_former_home_is_not_fenced": ("members",),
    "a_region_that_leaves_goes_on_writing": ("members",),
    "a_region_has_left_before_the_others_have_what_it_wrote": ("members", "partition"),
}
"""The kinds of faults that show a bug which too few seeds show among all kinds."""


def _bug(found: Bug) -> Bug:
    BUGS[found.__name__] = contextmanager(found)
    return found


def _replaced(target: object, name: str, by: object) -> Any:
    return patch.object(target, name, by)


@_bug
def an_fsync_is_skipped() -> Iterator[None]:
    def lose_power(disk: Disk, kept: float) -> None:
        disk.replace(disk.records[:-1])  # though `sync` had returned for the last one

    with _replaced(Disk, "lose_power", lose_power):
        yield


@_bug
def a_write_is_acknowledged_before_it_is_stored() -> Iterator[None]:
    real = Region.commit

    def commit(region: Region) -> None:
        for _, bit in region._pending.values():
            region.world.model.acknowledged |= bit
        real(region)

    with _replaced(Region, "commit", commit):
        yield


@_bug
def dependencies_are_dropped() -> Iterator[None]:
    real = frames.build

    def build(origin: Any, first: Any, head: Any, columns: Any, seen: Any, *rest: Any) -> Any:
        contract, _, receipts = rest
        return real(origin, first, head, columns, {}, contract, {}, receipts)

    with _replaced(journal, "build", build):
        yield


@_bug
def tombstones_are_forgotten() -> Iterator[None]:
    real = entities.join

    def join(one: EntityState | None, other: EntityState | None) -> EntityState | None:
        if one and other and one.deleted and other.changed > one.changed:
            return other
        return real(one, other)

    with _replaced(pending, "join", join), _replaced(entities, "join", join):
        yield


@_bug
def a_frame_that_comes_again_is_applied_again() -> Iterator[None]:
    real = Journal.take

    def take(self: Journal, frame: Any) -> bool:
        new = real(self, frame)
        if not new:
            frame.states = [entities.received(change) for change in frame.changes]
            self.arrivals.waiting.setdefault(frame.origin, deque()).append(frame)
        return new

    with _replaced(Journal, "take", take):
        yield


@_bug
def increments_of_one_origin_are_added_up_twice() -> Iterator[None]:
    def join(self: Any, one: Any, other: Any) -> Any:
        merged = dict(one)
        for origin, (up, down) in other.items():
            old = one.get(origin, (0, 0))
            merged[origin] = (old[0] + up, old[1] + down)
        return merged

    with _replaced(cells.Counter, "join", join):
        yield


@_bug
def a_removal_also_removes_what_it_had_not_seen() -> Iterator[None]:
    real = cells.Set.join

    def join(self: Any, one: Any, other: Any) -> Any:
        live, seen, beyond = real(self, one, other)
        gone = {e for dot, e in one[0].items() if dot not in live}
        return {dot: e for dot, e in live.items() if e not in gone}, seen, beyond

    with _replaced(cells.Set, "join", join):
        yield


@_bug
def the_chain_is_not_checked() -> Iterator[None]:
    def follow(frame: Any, *_: Any) -> None:
        pass

    with _replaced(arrivals, "follow", follow), _replaced(relayed, "follow", follow):
        yield


@_bug
def a_lag_is_counted_from_when_it_was_heard() -> Iterator[None]:
    real = Lag.note

    def note(self: Lag, origin: Origin, sequence: int, clock: int) -> None:
        real(self, origin, sequence, clock + (20 << COUNTER_BITS))

    with _replaced(Lag, "note", note):
        yield


@_bug
def a_relay_is_trusted() -> Iterator[None]:
    def examine(self: Keyring, *_: Any) -> Verdict:
        return Verdict.PROVEN

    with _replaced(Keyring, "examine", examine):
        yield


@_bug
def what_nobody_signed_is_taken() -> Iterator[None]:
    real = Keyring.examine

    def examine(self: Keyring, *arguments: Any) -> Verdict:
        found = real(self, *arguments)
        return Verdict.PROVEN if found is Verdict.UNPROVEN else found

    with _replaced(Keyring, "examine", examine):
        yield


@_bug
def a_restored_backup_goes_on_under_its_old_incarnation() -> Iterator[None]:
    def begin_write(self: Journal, now_ms: int) -> None:
        pass

    def learn(self: Journal, *_: Any) -> list[Any]:
        return []

    with _replaced(Journal, "begin_write", begin_write), _replaced(Journal, "learn", learn):
        yield


@_bug
def the_wall_clock_alone_orders_writes() -> Iterator[None]:
    def tick(self: HybridClock, now_ms: int) -> int:
        self.last = now_ms << COUNTER_BITS
        return self.last

    with _replaced(HybridClock, "tick", tick):
        yield


@_bug
def clocks_of_others_are_not_noted() -> Iterator[None]:
    with _replaced(HybridClock, "receive", lambda self, clock: None):
        yield


@_bug
def only_the_first_change_of_a_write_is_sent() -> Iterator[None]:
    real = Journal._close_local

    def close(self: Journal) -> Any:
        writes, frame = real(self)
        if frame is None or frame.count < 2:
            return writes, frame
        half = of_changes([frame.changes[0]._replace(writes_left=0)])
        head = self._heads.get(self.origin, frames.GENESIS)
        return writes, frames.build(self.origin, frame.first, head, half, self.vector, b"")

    with _replaced(Journal, "_close_local", close):
        yield


@_bug
def frames_of_a_failed_commit_are_forgotten() -> Iterator[None]:
    real = Journal.failed

    def failed(self: Journal, batch: Batch) -> Any:
        return real(self, dataclasses.replace(batch, frames=[]))

    with _replaced(Journal, "failed", failed):
        yield


@_bug
def a_failed_commit_is_stored_all_the_same() -> Iterator[None]:
    real = Region._failed

    def failed(region: Region, batch: Batch) -> None:
        region.disk.commit(batch.frames, batch.settled)
        real(region, batch)

    with _replaced(Region, "_failed", failed):
        yield


@_bug
def what_came_is_acknowledged_as_durable() -> Iterator[None]:
    real = receiving.Receiver.settle

    def settle(self: Any, now_ms: int) -> Any:
        kept = self._journal.vector
        self._journal.vector = {**kept, **self._journal.taken}
        try:
            return real(self, now_ms)
        finally:
            self._journal.vector = kept

    with _replaced(receiving.Receiver, "settle", settle):
        yield


@_bug
def the_watermark_is_stored_before_the_states() -> Iterator[None]:
    real = Disk.flush

    def flush(disk: Disk, states: Any, watermark: Any) -> None:
        real(disk, states, watermark or disk.vector())

    with _replaced(Disk, "flush", flush):
        yield


@_bug
def recovery_forgets_the_journal_above_the_watermark() -> Iterator[None]:
    real = Disk.recover

    def recover(disk: Disk, known: Any) -> Any:
        recovered = real(disk, known)
        for entity in recovered.replayed:
            data = [r.states[entity] for r in disk.records if entity in r.states]
            if data:
                recovered.states[entity] = entities.decode(data[-1][0], known.rules)
        return recovered

    with _replaced(Disk, "recover", recover):
        yield


@_bug
def a_sender_skips_what_it_has_not_read() -> Iterator[None]:
    real = Disk.after

    def after(disk: Disk, origin: Origin, sequence: int, most: int) -> Any:
        return real(disk, origin, sequence, most)[-1:]

    with _replaced(Disk, "after", after):
        yield


@_bug
def what_an_evicted_region_wrote_alone_is_dropped() -> Iterator[None]:
    real = Journal.receive

    def receive(self: Journal, body: bytes, *rest: Any) -> Any:
        frame = frames.parse(body, rest[0], self.known)
        if self.members.of(frame.origin.region).state is State.JOINING:
            return frame, False
        return real(self, body, *rest)

    with _replaced(Journal, "receive", receive):
        yield


@_bug
def a_readmitted_region_counts_by_what_it_said_before() -> Iterator[None]:
    def decided(self: Durable, table: Any, vector: Any) -> None:
        self._members = table

    with _replaced(Durable, "decided", decided):
        yield


@_bug
def an_evicted_region_is_linked() -> Iterator[None]:
    with _replaced(Members, "check_link", lambda self, region: None):
        yield


@_bug
def a_former_home_is_not_fenced() -> Iterator[None]:
    def rank(self: Any, message: Any) -> bytes:
        if self.entity != ENTITY.name:
            return real(self, message)
        return bytes([message.table.version % 256, message.table.generation % 256])

    real = FieldSchema.rank
    with _replaced(FieldSchema, "rank", rank):
        yield


@_bug
def a_region_that_leaves_goes_on_writing() -> Iterator[None]:
    with _replaced(Members, "writes", lambda self, region: True):
        yield


@_bug
def a_region_has_left_before_the_others_have_what_it_wrote() -> Iterator[None]:
    always = _replaced(decisions, "handed_over", lambda *_: True)
    with always, _replaced(decisions, "covers", lambda *_: True):
        yield


@_bug
def tokens_name_too_little() -> Iterator[None]:
    real = tokens.reduced

    def reduced(vector: Any, implied: Any) -> Any:
        return dict(sorted(real(vector, implied).items())[:1])

    with _replaced(tokens, "reduced", reduced):
        yield


@_bug
def the_digest_is_not_told_of_every_change() -> Iterator[None]:
    real = Digest.touch

    def touch(self: Any, changed: Any) -> None:
        real(self, [e for e in changed if e not in self._parts or e[1] != "c2"])

    with _replaced(Digest, "touch", touch):
        yield


@_bug
def the_journal_is_cut_above_what_a_member_has() -> Iterator[None]:
    with _replaced(horizon, "least", lambda vector, words: dict(vector)):
        yield


@_bug
def a_snapshot_omits_the_heads_of_chains() -> Iterator[None]:
    real = Journal.capture

    def capture(self: Journal, id: bytes, now_ms: int, durable: Any) -> Any:
        with _replaced(Journal, "head", lambda *_: Position(1, bytes(32), 1)):
            return real(self, id, now_ms, durable)

    with _replaced(Journal, "capture", capture):
        yield


@_bug
def a_snapshot_holds_what_came_after_it() -> Iterator[None]:
    with _replaced(snapshots.Captures, "replaced", lambda self, changes: None):
        yield


@_bug
def whoever_gives_a_snapshot_is_believed() -> Iterator[None]:
    with _replaced(intake, "_check_signed", lambda *_: None):
        yield


@_bug
def the_pieces_of_a_snapshot_are_not_checked() -> Iterator[None]:
    real = intake.Intake._take

    def take(self: Any, piece: Any) -> None:
        with _replaced(intake, "chain", lambda *_, last: piece.hash):
            real(self, piece)

    with _replaced(intake.Intake, "_take", take):
        yield


@_bug
def a_snapshot_takes_the_place_of_what_is_here() -> Iterator[None]:
    with _replaced(intake, "join", lambda one, other: other):
        yield


@_bug
def fences_are_not_stored() -> Iterator[None]:
    with _replaced(Disk, "fence", lambda disk, operation: None):
        yield


@_bug
def a_repeat_asks_nobody() -> Iterator[None]:
    real = Repeats.attempt

    def attempt(self: Repeats, id: str, write: Any, **_: Any) -> None:
        with _replaced(Claims, "is_fenced", lambda *_: False):
            real(self, id, write, repeated=False)

    with _replaced(Repeats, "attempt", attempt):
        yield


@_bug
def cells_of_unknown_rules_are_dropped() -> Iterator[None]:
    real = entities.received

    def received(change: Any) -> EntityState:
        state = real(change)
        return state._replace(cells={k: c for k, c in state.cells.items() if k[1] > 0})

    with _replaced(frames, "received", received):
        yield


@_bug
def a_tombstone_is_dropped_before_all_have_seen_the_delete() -> Iterator[None]:
    def look(self: Any, vector: Any, clocks: Any, words: Any, flushed: Any) -> bool:
        self.clocks = dict(clocks)
        return True

    with _replaced(horizon.Stability, "look", look):
        yield


@_bug
def a_change_that_cannot_be_read_is_skipped() -> Iterator[None]:
    real = entities.received

    def received(change: Any) -> EntityState:
        unread = any(rule < 0 for _, rule in change.shape)
        return real(change._replace(shape=(), content=b"") if unread else change)

    with _replaced(frames, "received", received):
        yield


@_bug
def what_is_written_to_what_was_forgotten_counts() -> Iterator[None]:
    with _replaced(merging, "UPSERT", -1):
        yield


@_bug
def a_downgrade_drops_the_states_of_unknown_rules() -> Iterator[None]:
    real = entities._put

    def put(of: Any, key: Any, state: Any) -> None:
        if key[1] > 0:
            real(of, key, state)

    with _replaced(entities, "_put", put):
        yield


@_bug
def an_upgrade_does_not_take_up_what_was_parked() -> Iterator[None]:
    real = entities.read

    def read(data: bytes, rules: Any) -> Any:
        state, unread = real(data, rules)
        with _replaced(entities, "fold", lambda kept, rule, field: (None, kept)):
            parked, _ = real(data, rules)
        return (parked if unread else state), unread

    with _replaced(entities, "read", read):
        yield


@_bug
def what_stays_in_a_region_is_sent() -> Iterator[None]:
    def stay(self: Any, entity: Any, generation: int, staying: Any) -> None:
        if staying:
            draft = self._draft(entity, generation, UPSERT, self._look(entity))
            draft.cells.update(staying)
            self._apply(draft)

    with _replaced(Transaction, "_stay", stay):
        yield


@_bug
def a_rollback_forgets_what_stays() -> Iterator[None]:
    with _replaced(GroupSchema, "keep", lambda self, fields: None):
        yield


@_bug
def what_stays_is_not_in_the_commit() -> Iterator[None]:
    real = Disk.commit

    def commit(disk: Disk, frames: Any, settled: Any, *rest: Any) -> None:
        real(disk, frames, {}, *rest)

    with _replaced(Disk, "commit", commit):
        yield


@_bug
def what_stays_outlives_a_delete() -> Iterator[None]:
    with _replaced(residents, "_lives", lambda state, section: True):
        yield


@_bug
def what_a_snapshot_has_forgotten_lives_on() -> Iterator[None]:
    with _replaced(intake, "_covers", lambda positions, stamp: False):
        yield


@_bug
def what_is_from_the_future_is_applied_at_once() -> Iterator[None]:
    with _replaced(arrivals, "MAX_AHEAD_MS", 1 << 40):
        yield


@_bug
def a_word_that_was_under_way_counts_for_a_readmission() -> Iterator[None]:
    real = Durable.acknowledged

    def acknowledged(self: Durable, peer: str, vector: Any) -> None:
        real(self, peer, vector)
        self._first.setdefault(peer, dict(vector))

    with _replaced(Durable, "acknowledged", acknowledged):
        yield


@_bug
def two_days_begin_two_tables_of_members() -> Iterator[None]:
    with _replaced(residency, "MEMBERS", ("", "")):
        yield


@_bug
def what_a_region_has_lost_is_wanted_from_it_alone() -> Iterator[None]:
    with _replaced(receiving, "bereft", lambda *_: set()):
        yield


for _each in (*BUGS_OF_CALLS, *BUGS_OF_CONFLICTS, *BUGS_OF_RULES):
    _bug(_each)
