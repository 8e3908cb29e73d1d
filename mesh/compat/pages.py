"""Writes docs/compat/: a page for each rule, with what its fixtures show.

Run as ``python -m mesh.compat.pages [--check]``; with ``--check`` nothing is written and a
difference is an error (exit code 1).
"""

from __future__ import annotations

import argparse
import difflib
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mesh.compat.rules import RULES, Rule

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "compat"
FIXTURES = ROOT / "tests" / "compat"

_MADE = "<!-- Made by `python -m mesh.compat.pages`; do not edit. -->"
_INDEX = f"""\
# Rules on changes of contracts

{_MADE}

`isthmus contracts check` judges each change by these, and by the rules of `buf breaking`, in one
report. `docs/contract-gate.md` says how it is used.

| Rule | Purpose | Options |
|---|---|---|
"""


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Write docs/compat/.")
    parser.add_argument("--check", action="store_true", help="fail on a difference, write nothing")
    check: bool = parser.parse_args(argv).check
    made = pages()
    there = {path.name: path.read_text() for path in FOLDER.glob("*.md")}
    if check:
        stale = sorted(n for n in made.keys() | there.keys() if made.get(n) != there.get(n))
        for name in stale:
            print(f"docs/compat/{name} is not up to date: run `make generate`")
        return 1 if stale else 0
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in there.keys() - made.keys():
        (FOLDER / name).unlink()
    for name, page in made.items():
        (FOLDER / name).write_text(page)
    return 0


def pages() -> Mapping[str, str]:
    """All pages, by their names."""
    rows = [
        f"| [`{rule.id}`]({rule.id}.md) | {rule.purpose} | {_options(rule)} |\n" for rule in RULES
    ]
    made = {f"{rule.id}.md": "".join(_page(rule)) for rule in RULES}
    return {"README.md": _INDEX + "".join(rows), **made}


def _page(rule: Rule) -> Iterator[str]:
    yield f"# {rule.id}\n\n{_MADE}\n\n{rule.purpose}\n\n"
    if rule.options:
        yield f"It judges changes of {_options(rule)}.\n\n"
    if rule.calls:
        yield "It is about calls: of versions that are stored alone it says nothing.\n\n"
    example = FIXTURES / rule.id
    yield "## Example\n\n```diff\n"
    yield from _diff(example)
    yield "```\n\n| Verdict | Subject | At | Rule |\n|---|---|---|---|\n"
    found: list[dict[str, Any]] = json.loads((example / "expected.json").read_text())
    for each in found:
        verdict = each["verdict"] + (", needs approval" if each["approval"] else "")
        yield f"| {verdict} | `{each['subject']}` | `{each['at']}` | {each['rule']} |\n"


def _diff(example: Path) -> Iterator[str]:
    before, after = (
        (example / side / "shop.proto").read_text().splitlines(keepends=True)
        for side in ("previous", "current")
    )
    yield from list(difflib.unified_diff(before, after, n=2))[2:]


def _options(rule: Rule) -> str:
    return ", ".join(f"`{name}`" for name in rule.options)


if __name__ == "__main__":
    sys.exit(main())
