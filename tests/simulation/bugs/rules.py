"""Bugs of merge rules that the simulation must find; see `bugs`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

from mesh.replication import deltas
from mesh.replication.core import (
    cells,
    entities,
    etags,
    pending,
)
from mesh.replication.core.cells import FIRST
from mesh.replication.core.entities import EntityState
from mesh.replication.core.journal import Journal
from mesh.replication.core.rules import dots, escrow, ordered, registers, stamped
from mesh.replication.core.shapes import Packed
from mesh.replication.core.wire import read_varint
from tests.simulation.bugs.registry import bug


@bug
def tombstones_are_forgotten() -> Iterator[None]:
    real = entities.join

    def join(one: EntityState | None, other: EntityState | None) -> EntityState | None:
        if one and other and one.deleted and other.changed > one.changed:
            return other
        return real(one, other)

    with patch.object(pending, "join", join), patch.object(entities, "join", join):
        yield


@bug
def increments_of_one_origin_are_added_up_twice() -> Iterator[None]:
    def join(self: Any, one: Any, other: Any) -> Any:
        merged = dict(one)
        for origin, (up, down) in other.items():
            old = one.get(origin, (0, 0))
            merged[origin] = (old[0] + up, old[1] + down)
        return merged

    with patch.object(cells.Counter, "join", join):
        yield


@bug
def a_removal_also_removes_what_it_had_not_seen() -> Iterator[None]:
    real = cells.Set.join

    def join(self: Any, one: Any, other: Any) -> Any:
        live, seen, beyond = real(self, one, other)
        gone = {e for dot, e in one[0].items() if dot not in live}
        return {dot: e for dot, e in live.items() if e not in gone}, seen, beyond

    with patch.object(cells.Set, "join", join):
        yield


@bug
def first_lets_a_later_writer_win() -> Iterator[None]:
    real = deltas.of_set

    def of_set(each: Any, message: Any, *rest: Any, named: bool) -> bytes | None:
        if each.rule == FIRST:
            return each.value(message) or None
        return real(each, message, *rest, named=named)

    with (
        patch.object(deltas, "of_set", of_set),
        patch.object(stamped.First, "join", stamped.Latest.join),
    ):
        yield


@bug
def min_is_taken_for_max() -> Iterator[None]:
    with patch.object(ordered.Min, "wins", ordered.Max.wins):
        yield


@bug
def keep_both_drops_a_concurrent_value() -> Iterator[None]:
    real = registers.KeepBoth.join

    def join(self: Any, one: Any, other: Any) -> Any:
        live, seen, beyond = real(self, one, other)
        latest = max(live, key=lambda dot: (live[dot][0], dot), default=None)
        return {dot: live[dot] for dot in live if dot == latest}, seen, beyond

    with patch.object(registers.KeepBoth, "join", join):
        yield


@bug
def a_concurrent_removal_brings_an_entry_back() -> Iterator[None]:
    real = registers.Map.join

    def join(self: Any, one: Any, other: Any) -> Any:
        live, seen, beyond = real(self, one, other)
        return (live or {**one[0], **other[0]}), seen, beyond

    with patch.object(registers.Map, "join", join):
        yield


@bug
def an_etag_is_not_looked_at() -> Iterator[None]:
    with patch.object(etags, "read", lambda *_: None):
        yield


@bug
def an_etag_of_an_earlier_life_counts() -> Iterator[None]:
    real = etags.read

    def read(etag: bytes | None, state: Any, cell: Any) -> Any:
        named = state if etag is None else state._replace(generation=read_varint(etag, 0)[0])
        return real(etag, named, cell)

    with patch.object(etags, "read", read):
        yield


@bug
def dots_are_numbered_anew() -> Iterator[None]:
    def delta(state: Any, origin: Any, written: Any, gone: Any) -> bytes:
        return real(None if state is None else (state[0], {}, state[2]), origin, written, gone)

    real = dots.delta
    with patch.object(registers, "delta", delta):
        yield


@bug
def a_restored_backup_spends_its_rights_again() -> Iterator[None]:
    def former(self: Journal) -> list[Any]:
        return [o for o in self.vector if o.region == self.region and o != self.origin]

    with patch.object(Journal, "former", property(former)):
        yield


@bug
def rights_that_are_given_are_kept() -> Iterator[None]:
    real = escrow.rights

    def rights(rows: Any, origin: Any) -> int:
        mine = rows.get(origin, escrow.NOTHING)
        return real({**rows, origin: mine._replace(given={})}, origin)

    with patch.object(escrow, "rights", rights):
        yield


@bug
def a_bounded_counter_is_a_counter() -> Iterator[None]:
    def taken(rows: Any, origin: Any, amount: int, former: Any) -> Any:
        row = rows.get(origin, escrow.NOTHING)
        return {origin: row._replace(spent=row.spent + amount)}

    with patch.object(escrow, "taken", taken):
        yield


@bug
def older_contents_lie_over_newer_ones() -> Iterator[None]:
    real = Packed.over

    def over(self: Packed, older: Any) -> Any:
        return real(older, self) if isinstance(older, Packed) else real(self, older)

    with patch.object(Packed, "over", over):
        yield
