"""Curves, and their plots: what benchmarks add goes to build/bench, and into docs when asked."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pygal
from pygal.style import Style

from tests.bench.rows import OUT

DOCS = Path(__file__).resolve().parents[3] / "docs" / "benchmarks"
Points = Sequence[tuple[float, float]]

_COMMENT = re.compile("<!--.*?-->", re.DOTALL)
_STYLE = Style(
    background="white",
    plot_background="white",
    font_family="sans-serif",
    colors=("#0b6e99", "#d9730d", "#448361"),
    title_font_size=18,
    label_font_size=12,
    legend_font_size=13,
)


@dataclass(frozen=True)
class Curve:
    """Lines over the same axes; `axes` are what x and y are. `logarithmic` is x's scale."""

    name: str
    title: str
    axes: tuple[str, str]
    lines: Mapping[str, Points]
    logarithmic: bool


@dataclass
class Curves:
    """What the benchmarks of one run found."""

    found: list[Curve] = field(default_factory=list)

    def add(
        self,
        name: str,
        title: str,
        axes: tuple[str, str],
        lines: Mapping[str, Points],
        *,
        logarithmic: bool = False,
    ) -> None:
        """Keeps a curve under its name."""
        self.found.append(Curve(name, title, axes, lines, logarithmic))

    def write(self, folder: Path) -> None:
        """Writes each curve as ``NAME.svg``, and its points as ``NAME.json``."""
        folder.mkdir(parents=True, exist_ok=True)
        for curve in self.found:
            points = json.dumps(asdict(curve), indent=1)
            (folder / f"{curve.name}.json").write_text(points + "\n")
            (folder / f"{curve.name}.svg").write_text(plot(curve))


def plot(curve: Curve) -> str:
    """A curve as SVG, without scripts."""

    def place(x: float) -> float:
        return math.log10(x) if curve.logarithmic else x

    chart = pygal.XY(
        title=curve.title,
        x_title=curve.axes[0],
        y_title=curve.axes[1],
        style=_STYLE,
        js=(),
        width=720,
        height=400,
        include_x_axis=True,
        legend_at_bottom=True,
        show_legend=len(curve.lines) > 1,
        dots_size=3,
        max_scale=8,
        margin_right=50,
        value_formatter=lambda y: f"{y:,.4g}",
        disable_xml_declaration=True,
    )
    xs = sorted({x for points in curve.lines.values() for x, _ in points})
    shown: Sequence[Any] = xs if curve.logarithmic or len(xs) <= 6 else _spread(xs)
    chart.x_labels = [{"value": place(x), "label": f"{x:,.0f}"} for x in shown]
    for name, points in curve.lines.items():
        chart.add(name, [(place(x), y) for x, y in points])
    chart.uuid = curve.name  # else each drawing of the same points would differ
    svg: str = chart.render()
    return _COMMENT.sub("", svg) + "\n"


def _spread(xs: Sequence[float]) -> list[float]:
    return [xs[round(at * (len(xs) - 1) / 4)] for at in range(5)]


def from_files(folder: Path) -> Curves:
    """The curves that `Curves.write` wrote."""
    files = sorted(folder.glob("*.json"))
    return Curves([Curve(**json.loads(file.read_text())) for file in files])


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows of a report as Markdown."""
    lines = ["| | median | unit | least to greatest | runs | against | ratio |", "|---" * 7 + "|"]
    for row in rows:
        low, high = map(_figure, row["spread"])
        against = (row["peer"], f"{row['ratio']:.3g}") if row["peer"] else ("", "")
        cells = (row["metric"], _figure(row["value"]), row["unit"], f"{low} to {high}", row["runs"])
        lines.append(f"| {' | '.join(map(str, (*cells, *against)))} |")
    return "\n".join(lines)


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def main() -> None:
    """Brings the last run's figures and curves into the docs, with pages that show them."""
    rows = json.loads((OUT / "replication.json").read_text())
    (DOCS / "figures.md").write_text(f"# Replication: figures\n\n{table(rows)}\n")
    curves = from_files(OUT / "curves")
    curves.write(DOCS)
    shown = "\n\n".join(f"![{curve.title}]({curve.name}.svg)" for curve in curves.found)
    (DOCS / "curves.md").write_text(f"# Replication: curves\n\n{shown}\n")


if __name__ == "__main__":
    main()
