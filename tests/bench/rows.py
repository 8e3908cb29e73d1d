"""What a benchmark reports: rows, as a table and as build/bench/NAME.json."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

OUT = Path(__file__).resolve().parents[2] / "build" / "bench"

_WIDTH = 150
"""Of the table: a row should be one line."""


@dataclass(frozen=True)
class Row:
    """One figure: the median of `runs` runs, the least and greatest of them, and its peer's."""

    metric: str
    value: float
    unit: str
    spread: tuple[float, float]
    runs: int
    peer: str | None = None
    ratio: float | None = None


def row(
    metric: str,
    values: Sequence[float],
    unit: str,
    peer: tuple[str, Sequence[float]] | None = None,
) -> Row:
    """A row from the values of several runs, and of a peer measured in the same run."""
    middle = statistics.median(values)
    name, ratio = (None, None) if peer is None else (peer[0], middle / statistics.median(peer[1]))
    return Row(metric, middle, unit, (min(values), max(values)), len(values), name, ratio)


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(percent / 100 * len(ordered)) - 1))]


def report(name: str, rows: Sequence[Row]) -> None:
    """Prints the table and writes the file."""
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / f"{name}.json").write_text(json.dumps([asdict(r) for r in rows], indent=2) + "\n")
    table = Table("metric", "median", "unit", "spread", "runs", "peer", "ratio", title=name)
    for r in rows:
        table.add_row(
            r.metric,
            f"{r.value:.3g}",
            r.unit,
            f"{r.spread[0]:.3g} – {r.spread[1]:.3g}",
            str(r.runs),
            r.peer or "",
            "" if r.ratio is None else f"{r.ratio:.2f}",
        )
    Console(width=_WIDTH).print(table)
