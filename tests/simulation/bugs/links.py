"""Bugs of causality, clocks, chains and relays that the simulation must find; see `bugs`."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

from mesh.replication.core import (
    arrivals,
    entities,
    frames,
    journal,
    receiving,
    relayed,
)
from mesh.replication.core.clocks import COUNTER_BITS, HybridClock, Origin
from mesh.replication.core.columns import of_changes
from mesh.replication.core.journal import Journal
from mesh.replication.core.lag import Lag
from mesh.replication.core.signatures import Keyring, Verdict
from tests.simulation.bugs.registry import bug
from tests.simulation.disk import Disk


@bug
def dependencies_are_dropped() -> Iterator[None]:
    real = frames.build

    def build(origin: Any, first: Any, head: Any, columns: Any, seen: Any, *rest: Any) -> Any:
        contract, _, receipts = rest
        return real(origin, first, head, columns, {}, contract, {}, receipts)

    with patch.object(journal, "build", build):
        yield


@bug
def a_frame_that_comes_again_is_applied_again() -> Iterator[None]:
    real = Journal.take

    def take(self: Journal, frame: Any) -> bool:
        new = real(self, frame)
        if not new:
            frame.states = [entities.received(change) for change in frame.changes]
            self.arrivals.waiting.setdefault(frame.origin, deque()).append(frame)
        return new

    with patch.object(Journal, "take", take):
        yield


@bug
def the_chain_is_not_checked() -> Iterator[None]:
    def follow(frame: Any, *_: Any) -> None:
        pass

    with patch.object(arrivals, "follow", follow), patch.object(relayed, "follow", follow):
        yield


@bug
def a_lag_is_counted_from_when_it_was_heard() -> Iterator[None]:
    real = Lag.note

    def note(self: Lag, origin: Origin, sequence: int, clock: int) -> None:
        real(self, origin, sequence, clock + (20 << COUNTER_BITS))

    with patch.object(Lag, "note", note):
        yield


@bug
def a_relay_is_trusted() -> Iterator[None]:
    def examine(self: Keyring, *_: Any) -> Verdict:
        return Verdict.PROVEN

    with patch.object(Keyring, "examine", examine):
        yield


@bug
def what_nobody_signed_is_taken() -> Iterator[None]:
    real = Keyring.examine

    def examine(self: Keyring, *arguments: Any) -> Verdict:
        found = real(self, *arguments)
        return Verdict.PROVEN if found is Verdict.UNPROVEN else found

    with patch.object(Keyring, "examine", examine):
        yield


@bug
def the_wall_clock_alone_orders_writes() -> Iterator[None]:
    def tick(self: HybridClock, now_ms: int) -> int:
        self.last = now_ms << COUNTER_BITS
        return self.last

    with patch.object(HybridClock, "tick", tick):
        yield


@bug
def clocks_of_others_are_not_noted() -> Iterator[None]:
    with patch.object(HybridClock, "receive", lambda self, clock: None):
        yield


@bug
def what_is_from_the_future_is_applied_at_once() -> Iterator[None]:
    with patch.object(arrivals, "MAX_AHEAD_MS", 1 << 40):
        yield


@bug
def only_the_first_change_of_a_write_is_sent() -> Iterator[None]:
    real = Journal._close_local

    def close(self: Journal) -> Any:
        writes, frame = real(self)
        if frame is None or frame.count < 2:
            return writes, frame
        half = of_changes([frame.changes[0]._replace(writes_left=0)])
        head = self._heads.get(self.origin, frames.GENESIS)
        return writes, frames.build(self.origin, frame.first, head, half, self.vector, b"")

    with patch.object(Journal, "_close_local", close):
        yield


@bug
def what_came_is_acknowledged_as_durable() -> Iterator[None]:
    real = receiving.Receiver.settle

    def settle(self: Any, now_ms: int) -> Any:
        kept = self._journal.vector
        self._journal.vector = {**kept, **self._journal.taken}
        try:
            return real(self, now_ms)
        finally:
            self._journal.vector = kept

    with patch.object(receiving.Receiver, "settle", settle):
        yield


@bug
def a_sender_skips_what_it_has_not_read() -> Iterator[None]:
    real = Disk.after

    def after(disk: Disk, origin: Origin, sequence: int, most: int) -> Any:
        return real(disk, origin, sequence, most)[-1:]

    with patch.object(Disk, "after", after):
        yield


@bug
def what_a_region_has_lost_is_wanted_from_it_alone() -> Iterator[None]:
    with patch.object(receiving, "bereft", lambda *_: set()):
        yield
