"""Bugs that the simulation must find: each is put in by a patch, mostly of the core.

A check that never fails checks nothing. `BUGS` holds them by name, as context managers.
"""

from __future__ import annotations

from tests.simulation.bugs import (  # noqa: F401 # each adds its own to BUGS
    calls,
    conflicts,
    damage,
    links,
    members,
    rules,
    snapshots,
    storage,
    versions,
)
from tests.simulation.bugs.registry import BUGS

__all__ = ["BUGS", "FOCUS"]

FOCUS = {
    "a_repeat_asks_nobody": ("operation", "partition"),
    "a_snapshot_holds_what_came_after_it": ("trim",),
    "what_an_evicted_region_wrote_alone_is_dropped": ("members",),
    "a_readmitted_region_counts_by_what_it_said_before": ("members", "kill"),
    "an_evicted_region_is_linked": ("members",),
    "a_former_home_is_not_fenced": ("members",),
    "a_region_that_leaves_goes_on_writing": ("members",),
    "a_region_has_left_before_the_others_have_what_it_wrote": ("members", "partition"),
}
"""The kinds of faults that show a bug which too few seeds show among all kinds."""
