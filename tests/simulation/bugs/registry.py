"""Where bugs are kept by their names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Bug = Callable[[], Iterator[None]]
BUGS: dict[str, Callable[[], Any]] = {}
"""All bugs, as context managers."""


def bug(found: Bug) -> Bug:
    """Adds one under its name."""
    BUGS[found.__name__] = contextmanager(found)
    return found
