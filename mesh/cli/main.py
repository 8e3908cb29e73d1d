"""`isthmus`: the command's tree. Modules of commands import what they need when they run."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import typer

from mesh.cli import (
    channels,
    conflicts,
    contracts,
    demo,
    devices,
    down,
    identity,
    local,
    members,
    mesh,
    overview,
    status,
    up,
    verify,
)
from mesh.cli.exits import Exit
from mesh.cli.failures import explain
from mesh.cli.terminal import printable

# Typer brings a click of its own or uses the one that is installed, by its version.
_USAGE_ERRORS: Any = next(
    each for each in typer.BadParameter.__mro__ if each.__name__ == "ClickException"
)

app = typer.Typer(
    name="isthmus",
    help="Runs and operates Protobuf-defined services across regions, as one system.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("up")(up.up)
app.command("down")(down.down)
app.command("status")(status.status)
app.command("verify")(verify.verify)
app.command("conflicts")(conflicts.conflicts)
app.command("demo")(demo.demo)
app.command("overview")(overview.overview)
app.add_typer(channels.app, name="channels")
app.add_typer(contracts.app, name="contracts")
app.add_typer(devices.app, name="devices")
app.add_typer(identity.app, name="identity")
app.add_typer(local.app, name="local")
app.add_typer(members.app, name="members")
app.add_typer(mesh.app, name="mesh")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command and exits with its code."""
    sys.exit(int(run(sys.argv[1:] if arguments is None else arguments)))


def run(arguments: Sequence[str]) -> int:
    """Runs one command; returns its exit code. Errors are one message on stderr."""
    command = typer.main.get_command(app)
    try:
        result = command.main(list(arguments), prog_name="isthmus", standalone_mode=False)
    except typer.Abort:
        return _fail("interrupted", Exit.INTERRUPTED)
    except _USAGE_ERRORS as error:
        context = getattr(error, "ctx", None)
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error.format_message())
            return Exit.USAGE
        hint = f"\n  see `{context.command_path} --help`" if context is not None else ""
        # Pydantic, with which Typer reads values, begins what it cannot read with two words of its
        # own.
        return _fail(error.format_message().replace("Value error, ", "", 1) + hint, Exit.USAGE)
    except BrokenPipeError:
        # Whoever read this went away, as `head` does. Nothing more can be said, also at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK
    except (Exception, KeyboardInterrupt) as error:
        explained = explain(error)
        if explained is not None:
            return _fail(*explained)
        if os.environ.get("ISTHMUS_DEBUG"):
            raise
        return _fail(
            f"internal error: {type(error).__name__}: {error}\n"
            "  set ISTHMUS_DEBUG=1 to see where, and please report it",
            Exit.INTERNAL,
        )
    if result == Exit.INTERRUPTED:  # how newer versions of Typer report Ctrl-C
        return _fail("interrupted", Exit.INTERRUPTED)
    return result if isinstance(result, int) else Exit.OK


def _fail(message: str, code: Exit) -> int:
    print(f"isthmus: {printable(message)}", file=sys.stderr)
    return code
