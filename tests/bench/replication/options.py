"""How much is measured."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.rows import OUT


@dataclass(frozen=True)
class Options:
    """`only` is a part of the names of what to run; `seconds` is how long each run writes.

    `quick` does a little of everything, to see that it works: its figures say nothing.
    """

    only: str = ""
    seconds: float = 5.0
    runs: int = 5
    entities: int = 100_000
    pack: int = 512
    window: int = 64
    profile: str | None = None
    quick: bool = False

    def chosen(self, name: str) -> bool:
        """Whether something with this name is to run."""
        return self.only in name

    @property
    def load(self) -> dict[str, Any]:
        """How writers write: things a write, and writes at a time."""
        return {"pack": self.pack, "window": self.window}

    @property
    def profile_file(self) -> Path:
        """Where the profile of a region goes."""
        return OUT / f"replication-{self.profile}.pstats"


def parse(argv: list[str]) -> Options:
    """The options of a command line."""
    given = Options()
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench replication", description="Replication against its peers."
    )
    parser.add_argument("--only", default="", help="run what has this in its name")
    parser.add_argument("--seconds", type=float, help="how long each run writes")
    parser.add_argument("--runs", type=int, help="runs of each, interleaved")
    parser.add_argument("--entities", type=int, help="how many are written to")
    parser.add_argument("--pack", type=int, default=given.pack, help="things a write")
    parser.add_argument("--window", type=int, default=given.window, help="writes at a time")
    parser.add_argument(
        "--profile", choices=("eu", "us"), help="print where a region's event loop spends its time"
    )
    parser.add_argument("--quick", action="store_true", help="a little of all: does it work?")
    parsed = parser.parse_args(argv)
    small = {"seconds": 0.3, "runs": 1, "entities": 200} if parsed.quick else {}
    for name in ("seconds", "runs", "entities"):
        if getattr(parsed, name) is None:
            setattr(parsed, name, small.get(name, getattr(given, name)))
    if parsed.quick:
        parsed.pack, parsed.window = min(parsed.pack, 32), min(parsed.window, 4)
    return Options(**vars(parsed))
