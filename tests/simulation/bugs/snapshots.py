"""Bugs of snapshots that the simulation must find; see `bugs`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

from mesh.replication.core import (
    intake,
    snapshots,
)
from mesh.replication.core.handing import Giving
from mesh.replication.core.journal import Journal
from mesh.replication.core.snapshots import Position
from tests.simulation.bugs.registry import bug


@bug
def a_snapshot_omits_the_heads_of_chains() -> Iterator[None]:
    real = Journal.capture

    def capture(self: Journal, id: bytes, now_ms: int, durable: Any) -> Any:
        with patch.object(Journal, "head", lambda *_: Position(1, bytes(32), 1)):
            return real(self, id, now_ms, durable)

    with patch.object(Journal, "capture", capture):
        yield


@bug
def a_snapshot_holds_what_came_after_it() -> Iterator[None]:
    with patch.object(snapshots.Captures, "replaced", lambda self, changes: None):
        yield


@bug
def whoever_gives_a_snapshot_is_believed() -> Iterator[None]:
    with patch.object(intake, "_check_signed", lambda *_: None):
        yield


@bug
def the_pieces_of_a_snapshot_are_not_checked() -> Iterator[None]:
    real = intake.Intake._take

    def take(self: Any, piece: Any) -> None:
        with patch.object(intake, "chain", lambda *_, last: piece.hash):
            real(self, piece)

    with patch.object(intake.Intake, "_take", take):
        yield


@bug
def a_snapshot_passes_deletes_that_are_in_the_journal_alone() -> Iterator[None]:
    real = intake.Intake.install

    def install(self: Any, committed: Any, positions: Any, visible: Any, integrity: Any) -> Any:
        staging = real(self, committed, positions, visible, integrity)
        shown = {
            entity: state
            for entity, state in staging.install.states.items()
            if entity in visible.after or not state.deleted
        }
        staging.install = staging.install._replace(states=shown)
        return staging

    with patch.object(intake.Intake, "install", install):
        yield


@bug
def a_snapshot_takes_the_place_of_what_is_here() -> Iterator[None]:
    with patch.object(intake, "join", lambda one, other: other):
        yield


@bug
def what_a_snapshot_has_forgotten_lives_on() -> Iterator[None]:
    with patch.object(intake, "_ended", lambda positions, state, other: False):
        yield


@bug
def a_snapshot_with_an_earlier_life_ends_nothing() -> Iterator[None]:
    with patch.object(intake, "life", lambda generation: 0):
        yield


@bug
def what_was_given_is_waited_for_without_end() -> Iterator[None]:
    with patch.object(Giving, "tire", lambda self, now_ms: None):
        yield
