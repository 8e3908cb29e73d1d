"""Bugs of versions, and of what stays in a region, that the simulation must find; see `bugs`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

from mesh.replication.core import (
    entities,
    frames,
    residents,
)
from mesh.replication.core.entities import UPSERT, EntityState
from mesh.replication.core.integrity import Integrity
from mesh.replication.schema import GroupSchema
from mesh.replication.transaction import Transaction
from tests.simulation.bugs.registry import bug
from tests.simulation.disk import Disk


@bug
def cells_of_unknown_rules_are_dropped() -> Iterator[None]:
    real = entities.received

    def received(change: Any) -> EntityState:
        state = real(change)
        return state._replace(cells={k: c for k, c in state.cells.items() if k[1] > 0})

    with patch.object(frames, "received", received):
        yield


@bug
def a_change_that_cannot_be_read_is_skipped() -> Iterator[None]:
    real = entities.received

    def received(change: Any) -> EntityState:
        unread = any(rule < 0 for _, rule in change.shape)
        return real(change._replace(shape=(), content=b"") if unread else change)

    with patch.object(frames, "received", received):
        yield


@bug
def a_downgrade_drops_the_states_of_unknown_rules() -> Iterator[None]:
    real = entities._put

    def put(of: Any, key: Any, state: Any) -> None:
        if key[1] > 0:
            real(of, key, state)

    with patch.object(entities, "_put", put):
        yield


@bug
def an_upgrade_does_not_take_up_what_was_parked() -> Iterator[None]:
    real = entities.read

    def read(data: bytes, rules: Any) -> Any:
        state, unread = real(data, rules)
        with patch.object(entities, "fold", lambda kept, rule, field: (None, kept)):
            parked, _ = real(data, rules)
        return (parked if unread else state), unread

    with patch.object(entities, "read", read):
        yield


@bug
def what_stays_in_a_region_is_sent() -> Iterator[None]:
    def stay(self: Any, entity: Any, generation: int, staying: Any) -> None:
        if staying:
            draft = self._draft(entity, generation, UPSERT, self._look(entity))
            draft.cells.update(staying)
            self._apply(draft)

    with patch.object(Transaction, "_stay", stay):
        yield


@bug
def a_rollback_forgets_what_stays() -> Iterator[None]:
    with patch.object(GroupSchema, "keep", lambda self, fields: None):
        yield


@bug
def what_stays_is_not_in_the_commit() -> Iterator[None]:
    real = Disk.commit

    def commit(disk: Disk, frames: Any, settled: Any, *rest: Any) -> None:
        real(disk, frames, {}, *rest)

    with patch.object(Disk, "commit", commit):
        yield


@bug
def what_stays_ends_by_what_is_damaged() -> Iterator[None]:
    with patch.object(Integrity, "proven", lambda self, entity: True):
        yield


@bug
def what_stays_outlives_a_repair() -> Iterator[None]:
    with patch.object(residents.Residents, "replaced", lambda self, entity: None):
        yield


@bug
def what_stays_outlives_a_delete() -> Iterator[None]:
    with patch.object(residents, "_lives", lambda state, section: True):
        yield
