"""What clients did and were told: one record an attempt, and one a fault."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

State = dict[str, Any]

ACKNOWLEDGED = "acknowledged"
PENDING = "pending"
"""It took effect in its region, and not in as many others as asked for in time."""
REFUSED = "refused"
"""It has no effect anywhere."""
UNKNOWN = "unknown"
"""No answer came: it has taken effect, will, or never does."""

HURRIED = "Hurried"
"""The error of an attempt whose client did not wait for an answer."""


@dataclass
class Attempt:
    """A request to one region, and what came of it. Times are seconds on one monotonic clock.

    Attempts of one `request` are under one id: all but the first say that they are `repeated`. `by`
    is the attempt that did what this one was told was done; `saw` is what that saw of the entities
    that it wrote, `read` what a read was shown. `position` is a place in a region's life (region,
    incarnation, sequence) that the write is not behind.
    """

    uid: str
    request: str
    session: str
    region: str
    start: float
    write: list[list[Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    durability: str = "REGION"
    repeated: bool = False
    end: float = 0.0
    outcome: str = UNKNOWN
    error: str = ""
    by: str = ""
    saw: dict[str, State] = field(default_factory=dict)
    read: dict[str, State] = field(default_factory=dict)
    position: list[Any] = field(default_factory=list)


@dataclass
class Fault:
    """What was done to whom, from `start` to `end`.

    A lost or restored disk has the `vectors` of the regions that lived then, by region.
    """

    kind: str
    targets: list[str]
    start: float
    end: float = float("inf")
    detail: str = ""
    vectors: dict[str, list[list[Any]]] = field(default_factory=dict)


@dataclass
class History:
    """Everything that a verdict needs: attempts, faults, and each region's last state."""

    regions: list[str]
    attempts: list[Attempt] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    final: dict[str, dict[str, Any]] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Writes it as lines of JSON, one file for each part."""
        folder.mkdir(parents=True, exist_ok=True)
        _lines(folder / "attempts.jsonl", (asdict(each) for each in self.attempts))
        _lines(folder / "faults.jsonl", (asdict(each) for each in self.faults))
        _lines(folder / "final.jsonl", ({"region": r} | state for r, state in self.final.items()))


def _lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
