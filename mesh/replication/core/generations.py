"""Which generation an entity begins with, so that its tombstone can be forgotten.

A generation is at least the number of the day (since 1970) on which it began. A tombstone is
dropped once its generation is of a day that is over: whoever creates the entity after that, also
one who never heard of it, begins a higher generation than the one that was forgotten. So it makes
no difference which regions still hold the tombstone.

What is written to a generation that is not here, and that the write does not begin itself, is void:
changes come after what they depend on, so that generation was here, and has ended.
"""

from __future__ import annotations

from mesh.replication.core import homes
from mesh.replication.core.entities import UPSERT, EntityState

DAY_MS = 24 * 3600 * 1000
FORGOTTEN_AFTER_DAYS = 2
"""Clocks of regions may be apart, by less than a day."""


def least(clock_ms: int) -> int:
    """The least life of an entity that begins at a time."""
    return clock_ms // DAY_MS


def last_before(generation: int, clock_ms: int) -> int:
    """What the generation of an entity that is created now follows; `generation` was its last."""
    floor = least(clock_ms) - 1
    return floor if homes.life(generation) < floor else generation


def is_void(kind: int, before: EntityState | None, generation: int) -> bool:
    """Whether a change is to a generation that ended, and of which nothing is left here."""
    return kind == UPSERT and (before is None or before.generation < generation)


def forgettable(state: EntityState, clock_ms: int) -> bool:
    """Whether creating the entity anew begins a higher generation, whoever does it."""
    return state.deleted and homes.life(state.generation) <= least(clock_ms) - FORGOTTEN_AFTER_DAYS
