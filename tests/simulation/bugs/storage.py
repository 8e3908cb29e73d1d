"""Bugs of commits, disks and recovery that the simulation must find; see `bugs`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

from mesh.replication.core import (
    entities,
    horizon,
    merging,
)
from mesh.replication.core.arrivals import Arrivals
from mesh.replication.core.batches import Batch
from mesh.replication.core.journal import Journal
from mesh.replication.core.pending import Pending
from tests.simulation.bugs.registry import bug
from tests.simulation.disk import Disk
from tests.simulation.region import Region


@bug
def a_delete_is_stable_though_a_former_life_has_not_seen_it() -> Iterator[None]:
    real = horizon.above

    def known(vector: Any, word: Any) -> Any:
        return real(vector, {origin: n for origin, n in word.items() if origin in vector})

    with patch.object(horizon, "above", known):
        yield


@bug
def a_frame_names_what_the_first_of_its_writes_saw() -> Iterator[None]:
    real = Pending.close

    def close(self: Any) -> Any:
        for write in self._queue:
            write.seen = self._queue[0].seen
        return real(self)

    with patch.object(Pending, "close", close):
        yield


@bug
def an_fsync_is_skipped() -> Iterator[None]:
    def lose_power(disk: Disk, kept: float) -> None:
        disk.replace(disk.records[:-1])  # though `sync` had returned for the last one

    with patch.object(Disk, "lose_power", lose_power):
        yield


@bug
def a_write_is_acknowledged_before_it_is_stored() -> Iterator[None]:
    real = Region.commit

    def commit(region: Region) -> None:
        for _, bit in region._pending.values():
            region.world.model.acknowledged |= bit
        real(region)

    with patch.object(Region, "commit", commit):
        yield


@bug
def frames_of_a_failed_commit_are_forgotten() -> Iterator[None]:
    real = Journal.failed

    def failed(self: Journal, batch: Batch) -> Any:
        return real(self, dataclasses.replace(batch, frames=[]))

    with patch.object(Journal, "failed", failed):
        yield


@bug
def a_failed_commit_is_stored_all_the_same() -> Iterator[None]:
    real = Region._failed

    def failed(region: Region, batch: Batch) -> None:
        region.disk.commit(batch.frames, batch.settled)
        real(region, batch)

    with patch.object(Region, "_failed", failed):
        yield


@bug
def the_watermark_is_stored_before_the_states() -> Iterator[None]:
    real = Disk.flush

    def flush(disk: Disk, states: Any, watermark: Any) -> None:
        real(disk, states, watermark or disk.vector())

    with patch.object(Disk, "flush", flush):
        yield


@bug
def recovery_forgets_the_journal_above_the_watermark() -> Iterator[None]:
    real = Disk.recover

    def recover(disk: Disk, known: Any) -> Any:
        recovered = real(disk, known)
        for entity in recovered.replayed:
            data = [r.states[entity] for r in disk.records if entity in r.states]
            if data:
                recovered.states[entity] = entities.decode(data[-1][0], known.rules)
        return recovered

    with patch.object(Disk, "recover", recover):
        yield


@bug
def a_restored_backup_goes_on_under_its_old_incarnation() -> Iterator[None]:
    def begin_write(self: Journal, now_ms: int) -> None:
        pass

    def learn(self: Journal, *_: Any) -> list[Any]:
        return []

    with patch.object(Journal, "begin_write", begin_write), patch.object(Journal, "learn", learn):
        yield


@bug
def the_journal_is_cut_above_what_a_member_has() -> Iterator[None]:
    with patch.object(horizon, "least", lambda vector, words: dict(vector)):
        yield


@bug
def a_tombstone_is_dropped_before_all_have_seen_the_delete() -> Iterator[None]:
    def look(self: Any, vector: Any, clocks: Any, words: Any, flushed: Any) -> bool:
        self.clocks = dict(clocks)
        return True

    with patch.object(horizon.Stability, "look", look):
        yield


@bug
def what_is_written_to_what_was_forgotten_counts() -> Iterator[None]:
    with patch.object(merging, "UPSERT", -1):
        yield


@bug
def what_others_depend_on_is_not_told_to_its_origin() -> Iterator[None]:
    with patch.object(Arrivals, "known_of", property(lambda self: self.vector)):
        yield
