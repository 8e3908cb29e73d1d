"""Bugs of conflicts that the simulation must find; see `bugs`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

from mesh.replication.core import (
    conflicts,
)
from mesh.replication.core.cells import KEEP_BOTH
from tests.simulation.bugs.registry import bug


@bug
def conflicts_with_an_etag_are_not_noted_in_maps() -> Iterator[None]:
    def may_hold(frame: Any, unknown: Any) -> bool:
        return bool(unknown) or KEEP_BOTH in frame.rules

    with patch.object(conflicts, "may_hold", may_hold):
        yield


@bug
def what_a_writer_had_seen_is_noted() -> Iterator[None]:
    def unseen(frame: Any, vector: Any) -> Any:
        return {origin: 0 for origin in vector if origin != frame.origin}

    with patch.object(conflicts, "unseen", unseen):
        yield


@bug
def plain_changes_are_never_in_conflict() -> Iterator[None]:
    with patch.object(conflicts, "quiet", lambda *_: True):
        yield


@bug
def what_a_delete_ends_is_not_noted() -> Iterator[None]:
    with patch.object(conflicts, "_lost", lambda state, unknown: False):
        yield
