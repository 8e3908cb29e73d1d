"""`isthmus contracts`: whether a contract holds, and whether a change of it is safe."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from mesh.compat.render import Document

app = typer.Typer(help="The gate of contracts.", no_args_is_help=True)


class Format(StrEnum):
    """How the answer is written."""

    TEXT = "text"
    MARKDOWN = "markdown"
    JSON = "json"
    GITHUB = "github"
    GITLAB = "gitlab"
    SARIF = "sarif"
    JUNIT = "junit"


class Stop(StrEnum):
    """The least that stops a change."""

    ORDERED = "ordered"
    GATED = "gated"
    BREAKING = "breaking"


Source = Annotated[
    Path,
    typer.Argument(help="A folder of proto files, or an image.", metavar="[SOURCE]"),
]
As = Annotated[Format, typer.Option("--format", "-f", help="How the answer is written.")]
_SOURCE = Path("proto")
_WAIVERS = Path("contracts.waivers.yaml")


@app.callback()
def group() -> None:
    """The gate of contracts."""


@app.command()
def lint(source: Source = _SOURCE, format: As = Format.TEXT) -> int:
    """Checks a contract against itself, the chains of its calls included.

    Exits with 1 if it is refused, and with 2, 4 or 7 if it cannot be read.
    """
    from mesh.compat import sources
    from mesh.compat.render import of_findings
    from mesh.contracts.lint import lint as check_rules

    read = sources.read(source)
    prefix = f"{source}/" if source.is_dir() else ""
    return _print(of_findings(check_rules(read.schema), prefix), format)


@app.command()
def check(
    against: Annotated[
        list[str],
        typer.Option(
            "--against",
            help="A version that runs, or that a rollback returns to: a git ref, a folder or an "
            "image. Once for each.",
            metavar="REF",
        ),
    ],
    source: Source = _SOURCE,
    stored: Annotated[
        list[str] | None,
        typer.Option("--stored", help="A version of which only journals hold data.", metavar="REF"),
    ] = None,
    waivers: Annotated[
        Path | None,
        typer.Option(
            "--waivers",
            help="The waivers; contracts.waivers.yaml, if there is one.",
            metavar="FILE",
        ),
    ] = None,
    fail_on: Annotated[
        Stop, typer.Option("--fail-on", help="The least that stops a change.")
    ] = Stop.BREAKING,
    format: As = Format.TEXT,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Tell what stops the change, and nothing else.")
    ] = False,
) -> int:
    """Says whether a contract can run beside other versions of it, and in which order.

    Exits with 1 if something stops the change, and with 2, 4 or 7 if that cannot be known: a
    version cannot be read, does not exist, or a tool is missing.
    """
    from datetime import UTC, datetime

    from mesh.compat.gate import Question
    from mesh.compat.gate import check as ask
    from mesh.compat.render import of_findings, of_report
    from mesh.contracts.findings import ContractError

    listed = waivers or (_WAIVERS if _WAIVERS.is_file() else None)
    question = Question(source, against, stored or (), listed, fail_on.value)
    try:
        answer = ask(question, datetime.now(UTC).date())
    except ContractError as refused:
        prefix = f"{source}/" if source.is_dir() else ""
        return _print(of_findings(refused.findings, prefix), format)
    document = of_report(answer)
    return _print(document.stops() if quiet else document, format)


def _print(document: Document, format: Format) -> int:
    from mesh.cli.exits import Exit
    from mesh.cli.terminal import printable
    from mesh.compat.render import FORMATS

    said = FORMATS[format.value](document)
    for_programs = format in (Format.JSON, Format.GITLAB, Format.SARIF, Format.JUNIT)
    print(said if for_programs else printable(said), end="")
    return Exit.OK if document.passes else Exit.FAILED
