"""`isthmus conflicts`: what merging decided between values that were written at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from mesh.cli.options import MESH, AsJson, MeshPath

if TYPE_CHECKING:
    from isthmus.replication.v1.conflict_pb2 import ConflictValue, ConflictView

    from mesh.cli.noted import Noted

EMPTY = "(empty)"
HIDDEN = "(redacted)"


def conflicts(
    mesh: MeshPath = MESH,
    region: Annotated[
        str,
        typer.Option("--region", "-r", help="Only what this region noted.", metavar="REGION"),
    ] = "",
    workload: Annotated[
        str,
        typer.Option("--workload", "-w", help="Only this one's group.", metavar="WORKLOAD"),
    ] = "",
    entity: Annotated[
        str,
        typer.Option(
            "--entity",
            "-e",
            help="Only of this entity, as TYPE/KEY; or of a message type, as TYPE.",
            metavar="ENTITY",
        ),
    ] = "",
    as_json: AsJson = False,
) -> int:
    """Shows the newest conflicts: both values, where each was written, and the rule that decided.

    Each region notes what it decides, so all are asked. Values of fields marked `debug_redact`, and
    those that stay in a home region, are not shown. Exits with 3 if no region answers; of one that
    does not it says so.
    """
    from mesh.cli import output
    from mesh.cli.exits import Exit
    from mesh.cli.noted import ask

    found, silent = ask(mesh, region, workload, entity)
    if as_json:
        output.print_json(
            {
                "conflicts": [
                    {
                        "group": each.group,
                        "noted_by": list(each.regions),
                        "conflict": each.view,
                        "values": [_shown(each, value) for value in _values(each.view)],
                    }
                    for each in found
                ],
                "unanswered": [f"{region}/{workload}: {why}" for region, workload, why in silent],
            }
        )
    else:
        output.print_table(
            ("ENTITY", "FIELD", "RULE", "STANDS", "FROM", "STOOD AGAINST IT", "FROM", "NOTED BY"),
            (
                (
                    f"{each.view.type.rpartition('.')[2]}/{each.view.key}",
                    each.view.field or "-",
                    each.view.rule,
                    *(
                        cell
                        for value in _values(each.view)
                        for cell in (_text(each, value), _from(value))
                    ),
                    ", ".join(each.regions),
                )
                for each in found
            ),
            "No conflict is noted.",
        )
        for name, owner, why in silent:
            print(f"{name}/{owner}: {why}: what it noted is missing here")
    return Exit.OK


def _values(view: ConflictView) -> tuple[ConflictValue, ConflictValue]:
    return view.read, view.other


def _text(noted: Noted, value: ConflictValue) -> str:
    import json

    shown = _shown(noted, value)
    if isinstance(shown, str):
        return shown
    return json.dumps(shown, ensure_ascii=False, separators=(", ", "="))


def _shown(noted: Noted, value: ConflictValue) -> Any:
    """A value alone; or the fields that a delete or a move ended, by their names."""
    from mesh.cli import output
    from mesh.cli.noted import message_of

    if noted.view.field in value.redacted:
        return HIDDEN
    content: Any = output.plain_set(message_of(noted.view.type, value.value))
    for name in noted.view.field.split(".") if noted.view.field else ():
        content = content.get(name, EMPTY) if isinstance(content, dict) else EMPTY
    if isinstance(content, dict):
        content |= dict.fromkeys(value.redacted, HIDDEN)
    return EMPTY if content == {} else content


def _from(value: ConflictValue) -> str:
    from mesh.cli import output

    if not value.HasField("origin"):
        return "-"
    return f"{value.origin.region}, {output.local_time(value.time.ToDatetime())}"
