"""Python's cycle collector, set for a process that holds a group's state.

A group makes hundreds of thousands of long-lived objects a second, hardly any of them in a cycle.
With the collector's own thresholds more than half of the time goes into looking for some.
"""

from __future__ import annotations

import gc

THRESHOLDS = (50_000, 20, 20)
"""Of objects made before the youngest are looked through, and of such passes before older ones."""


def settle() -> None:
    """What lives by now lives on, and is not looked through again; the rest is, less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
