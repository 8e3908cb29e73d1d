"""Bugs that a run must find, each put into the regions' processes by a patch.

Those of the core are the simulation's own; here are those that only real processes can show.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from mesh.replication import Group
from mesh.replication.claims import Claiming
from mesh.replication.committer import Committer
from mesh.replication.store.sqlite import SqliteStore
from tests.simulation import bugs as simulated

_SLOW_DISK_SECONDS = 0.2


@contextmanager
def acknowledged_before_the_fsync() -> Iterator[None]:
    """Writers are told that their write is durable while it is still on its way to the disk."""
    submit, commit = Committer.submit, SqliteStore.commit

    def early(self: Committer, write: Any) -> Any:
        future = submit(self, write)
        future.set_result({})
        return future

    def slow(self: SqliteStore, batch: Any) -> None:
        time.sleep(_SLOW_DISK_SECONDS)  # the window that a kill has to meet
        commit(self, batch)

    with patch.object(Committer, "submit", early), patch.object(SqliteStore, "commit", slow):
        yield


@contextmanager
def sessions_do_not_wait() -> Iterator[None]:
    """A region serves a session at once, whatever that has seen elsewhere."""

    async def wait_for(self: Group, seen: Any, deadline: Any) -> None:
        pass

    with patch.object(Group, "wait_for", wait_for):
        yield


@contextmanager
def repeats_ask_nobody() -> Iterator[None]:
    """A region does what it does not know, though another one may have done it."""

    async def claim(self: Claiming, operation: Any, seconds: Any) -> None:
        pass

    with patch.object(Claiming, "claim", claim):
        yield


_OF_THE_CORE = (
    "tombstones_are_forgotten",
    "increments_of_one_origin_are_added_up_twice",
    "a_removal_also_removes_what_it_had_not_seen",
)

BUGS: dict[str, Callable[[], Any]] = {
    "acknowledged_before_the_fsync": acknowledged_before_the_fsync,
    "sessions_do_not_wait": sessions_do_not_wait,
    "repeats_ask_nobody": repeats_ask_nobody,
    **{name: simulated.BUGS[name] for name in _OF_THE_CORE},
}
