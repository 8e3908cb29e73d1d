"""What the supervisor tells whoever watches it: see `Watcher`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol


class Stage(Enum):
    """Where a part of the mesh is."""

    STARTING = "starting"
    READY = "ready"
    DIED = "died"
    STOPPED = "stopped"
    NOTE = "note"


@dataclass(frozen=True)
class Progress:
    """Something happened to a part, such as ``eu/channels``; `detail` is a sentence or empty."""

    part: str
    stage: Stage
    detail: str = ""


class Watcher(Protocol):
    """Is told of progress, in the supervisor's event loop."""

    def __call__(self, progress: Progress) -> None:
        """Shows it, or not."""


def silent(progress: Progress) -> None:
    """A watcher that shows nothing."""
