"""Bugs of scrubbing, comparing and repairing that the simulation must find; see `bugs`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

from mesh.replication.core import (
    recovery,
    repair,
)
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
