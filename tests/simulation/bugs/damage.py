"""Bugs of scrubbing, comparing and repairing that the simulation must find; see `bugs`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

from mesh.replication.core import damage as damages
from mesh.replication.core import (
    recovery,
    repair,
)
from mesh.replication.core.batches import Visible
from mesh.replication.core.comparison import Comparison
from mesh.replication.core.damage import Damages
from mesh.replication.core.digest import Digest
from mesh.replication.core.entities import checksum
from mesh.replication.core.integrity import Integrity
from mesh.replication.core.recent import Recent
from tests.simulation import disk as disks
from tests.simulation.bugs.registry import bug


@bug
def the_digest_is_not_told_of_every_change() -> Iterator[None]:
    real = Digest.touch

    def touch(self: Any, changed: Any) -> None:
        real(self, [e for e in changed if e not in self._parts or e[1] != "c2"])

    with patch.object(Digest, "touch", touch):
        yield


@bug
def scrubbing_trusts_what_it_remembers() -> Iterator[None]:
    with patch.object(Digest, "holds", lambda self, entity: True):
        yield


@bug
def a_change_hides_the_damage_that_it_comes_upon() -> Iterator[None]:
    real = Integrity._suspect

    def forgotten(self: Integrity, entity: Any, replaced: Any, now_ms: int) -> bool:
        return real(self, entity, (), now_ms)

    with patch.object(Integrity, "_suspect", forgotten):
        yield


@bug
def a_repair_forgets_what_only_the_journal_has() -> Iterator[None]:
    with patch.object(repair, "_brought_up", lambda journal, log, entity, offer: offer.state):
        yield


@bug
def checksums_of_stored_states_are_not_checked() -> Iterator[None]:
    def recover(states: Any, *rest: Any) -> Any:
        believed = ((e, data, checksum(e, data)) for e, data, _ in states)
        return recovery.recover(believed, *rest)

    with patch.object(disks, "recover", recover):
        yield


@bug
def ranges_are_compared_whatever_touched_them() -> Iterator[None]:
    with patch.object(Recent, "beyond", lambda self, vector: set()):
        yield


@bug
def what_is_damaged_is_given_in_snapshots() -> Iterator[None]:
    with patch.object(Damages, "repairing", False):
        yield


@bug
def what_a_snapshot_makes_of_damage_is_believed() -> Iterator[None]:
    with patch.object(Integrity, "trusts", lambda self, entity, look: True):
        yield


@bug
def a_change_that_has_no_effect_is_forgotten() -> Iterator[None]:
    with patch.object(Visible, "idle", property(lambda self: (), lambda self, idle: None)):
        yield


@bug
def what_peers_had_before_a_snapshot_is_their_last_word() -> Iterator[None]:
    with (
        patch.object(damages, "MOST_BEHIND", 0),
        # Nor is it waited for longer: a minute of patience hides this here.
        patch.object(damages, "PATIENCE_MS", 0),
        patch.object(repair, "PATIENCE_MS", 0),
        patch.object(Damages, "cut_off", _cut_off),
    ):
        yield


def _cut_off(self: Damages, vector: Any) -> None:
    for damage in self.open(from_peers=True):
        damage.cut = vector
        damage.older.clear()


@bug
def what_was_deleted_and_forgotten_since_is_missed_here() -> Iterator[None]:
    real = Comparison._by_states

    def by_states(self: Any, piece: Any, copies: Any, beyond: Any, now_ms: int) -> None:
        real(self, piece, copies, set(), now_ms)

    with patch.object(Comparison, "_by_states", by_states):
        yield
