"""Prints results: tables for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from rich.console import Console
from rich.table import Table

from mesh.cli.terminal import printable

_PIPE_WIDTH = 1000


def plain(value: Any) -> Any:
    """A value as JSON has it; messages with their fields' names in the contract."""
    if isinstance(value, Message):
        return MessageToDict(
            value, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    return value


def plain_set(message: Message) -> dict[str, Any]:
    """What is set in a message, as JSON has it."""
    return MessageToDict(message, preserving_proto_field_name=True)


def print_json(value: Any, *, one_line: bool = False) -> None:
    """Prints a value as JSON; with `one_line` as a record of a stream."""
    json.dump(plain(value), sys.stdout, indent=None if one_line else 2)
    sys.stdout.write("\n")
    sys.stdout.flush()


def print_deleted(key: str, name: str, as_json: bool) -> None:
    """Says that the entity with that key is deleted."""
    if as_json:
        print_json({key: name, "deleted": True})
    else:
        print(f"{name} is deleted")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], empty: str) -> None:
    """Prints a table, or the sentence `empty` if it has no rows."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(printable(cell, lines=False) for cell in row))
    _print(table if table.row_count else empty)


def print_fields(fields: Iterable[tuple[str, str]]) -> None:
    """Prints names and values, one pair a line; empty values are left out."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in fields:
        if value:
            table.add_row(name, printable(value))
    _print(table)


def _print(what: Table | str) -> None:
    """Folds lines to a terminal's width; in a pipe they stay whole, to be searched.

    Brackets and colons are what somebody wrote, not markup. The blanks with which a table fills
    its last column say nothing.
    """
    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    console = Console(highlight=False, markup=False, emoji=False, width=width)
    with console.capture() as capture:
        console.print(what)
    sys.stdout.writelines(f"{line.rstrip(' ')}\n" for line in capture.get().split("\n")[:-1])


def size(count: int) -> str:
    """A number of bytes, in a unit that fits: `1.5 MiB`."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} GiB"


def duration(span: timedelta) -> str:
    """``850 ms``, ``12.3 s``, ``42 min``, ``5.1 h``."""
    seconds = span.total_seconds()
    for limit, text in (
        (1, f"{seconds * 1000:.0f} ms"),
        (90, f"{seconds:.1f} s"),
        (5400, f"{seconds / 60:.0f} min"),
    ):
        if abs(seconds) < limit:
            return text
    return f"{seconds / 3600:.1f} h"


def local_time(time: datetime) -> str:
    """A time in UTC, as an operator reads it here."""
    return time.replace(tzinfo=UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
