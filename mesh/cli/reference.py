"""Makes `docs/cli.md` from the commands themselves: `python -m mesh.cli.reference [--check]`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from mesh.cli.exits import MEANINGS, Exit
from mesh.cli.main import app

PAGE = Path(__file__).resolve().parents[2] / "docs" / "cli.md"

_INTRODUCTION = """# The `isthmus` command

<!-- Made by `python -m mesh.cli.reference` from the commands themselves; do not edit. -->

Every command reads the topology from `mesh.yaml` in the current folder; `--mesh PATH` or the
variable `ISTHMUS_MESH` names another. State is in `.isthmus/` beside it.

Commands that talk to the mesh use the operator's certificate, which `isthmus up` keeps fresh in
`.isthmus/operator/`. They go through the first region's edge, or that of `--region`, and through
the next one when an edge does not answer. Each mutation carries a request id, which repeats keep,
so it has one effect however often it was sent.

With `--json` a command prints JSON on stdout: what the service answered, with the fields' names in
the contract. Errors are one message on stderr that says what happened and what to do.
`ISTHMUS_DEBUG=1` shows where an internal error came from.

## Exit codes
"""


def render() -> str:
    """The whole page."""
    lines = [_INTRODUCTION.rstrip(), "", "| Code | Name | Meaning |", "|---:|---|---|"]
    lines += [f"| {code.value} | {code.name} | {MEANINGS[code]} |" for code in Exit]
    lines += ["", "## Commands", ""]
    root = typer.main.get_command(app)
    for path, command in _commands(root, ("isthmus",)):
        lines += _section(path, command)
    return "\n".join(lines).rstrip() + "\n"


def _commands(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if hasattr(command, "commands"):
        for name, each in command.commands.items():
            yield from _commands(each, (*path, name))
    else:
        yield path, command


def _section(path: tuple[str, ...], command: Any) -> list[str]:
    context = command.context_class(command, info_name=" ".join(path))
    usage = " ".join(command.collect_usage_pieces(context))
    help_text = " ".join((command.help or "").split("\n\n")[0].split())
    more = [" ".join(part.split()) for part in (command.help or "").split("\n\n")[1:]]
    lines = [f"### `{' '.join(path)}`", "", help_text, ""]
    for paragraph in more:
        lines += [paragraph, ""]
    lines += ["```", f"{' '.join(path)} {usage}".rstrip(), "```", ""]
    rows = [
        record
        for parameter in command.get_params(context)
        if parameter.name != "help" and (record := parameter.get_help_record(context)) is not None
    ]
    if rows:
        lines += ["| Option | |", "|---|---|"]
        lines += [f"| `{name}` | {_cell(text)} |" for name, text in rows]
        lines.append("")
    return lines


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main() -> int:
    """Writes the page; with `--check` only compares. Returns an exit code."""
    page = render()
    if "--check" in sys.argv[1:]:
        if PAGE.read_text() != page:
            print(f"{PAGE} is out of step: run `python -m mesh.cli.reference`", file=sys.stderr)
            return 1
        return 0
    PAGE.write_text(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
