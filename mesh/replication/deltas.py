"""From what a service writes to the deltas of its cells; none for what changes nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from google.protobuf.message import Message

from mesh.replication.core import cells
from mesh.replication.core.cells import Read, State
from mesh.replication.core.clocks import Origin
from mesh.replication.core.rules import escrow
from mesh.replication.errors import BelowBound
from mesh.replication.schema import FieldSchema
from mesh.replication.views import MessageClass

SETTABLE = (cells.LATEST, cells.FIRST, cells.MAX, cells.MIN, cells.KEEP_BOTH)
"""The rules of the fields that `Transaction.set` writes."""


def of_create(each: FieldSchema, message: Message, origin: Origin) -> bytes | None:
    """The delta by which a new entity has a field; None if the field is not set.

    Raises `BelowBound`.
    """
    value = each.value(message)
    if each.rule == cells.BOUNDED_COUNTER:
        return _begin(each, message, origin)
    if not value:
        return None
    here = getattr(each.parent(message), each.names[-1])
    match each.rule:
        case cells.SET:
            return cells.Set.delta(None, origin, each.elements(type(message), here))
        case cells.MAP:
            return cells.registers.delta(None, origin, each.entries(type(message), here))
        case cells.COUNTER:
            return cells.Counter.delta(None, origin, here)
        case _:
            return of_set(each, message, None, origin, None, named=True)


def _begin(each: FieldSchema, message: Message, origin: Origin) -> bytes | None:
    count = getattr(each.parent(message), each.names[-1])
    if count < each.at_least:
        raise BelowBound(f"{each} begins at {count}, and its bound is {each.at_least}")
    rows = escrow.begun(origin, count, each.at_least)
    return cells.escrow.encode(rows) if rows else None


def of_set(
    each: FieldSchema,
    message: Message,
    cell: State | None,
    origin: Origin,
    read: Read | None,
    *,
    named: bool,
) -> bytes | None:
    """The delta by which a field gets the value that a message has; None if nothing comes of it.

    `named` says that the field was asked for, and is written also if it looks the same.
    """
    value = each.value(message)
    match each.rule:
        case cells.FIRST:
            return value if value and cell is None else None
        case cells.MAX | cells.MIN:
            if not value and each.descriptor.has_presence:
                return None
            rank = each.rank(message)
            rule = cells.maximum if each.rule == cells.MAX else cells.minimum
            wins = cell is None or rule.wins(cell, (rank, value))
            return rule.delta(rank, value) if wins else None
        case cells.KEEP_BOTH:
            shown = b"" if cell is None else cells.both.render(each.descriptor.number, cell)
            return cells.both.delta(cell, origin, value, read) if named or value != shown else None
        case _:
            return value if named or value != (cell[3] if cell else b"") else None


def of_remove(
    each: FieldSchema,
    message_class: MessageClass,
    values: Iterable[Any],
    cell: State | None,
    origin: Origin,
    read: Read | None,
) -> bytes | None:
    """The delta that removes elements of a SET or keys of a MAP; None if they are not there."""
    if cell is None:
        return None
    if each.rule == cells.MAP:
        gone = each.entries(message_class, dict.fromkeys(values))
        present = cells.registers.versions(cell).keys()
        if present.isdisjoint(map(cells.registers.name, gone)):
            return None
        return cells.registers.delta(cell, origin, remove=gone, read=read)
    elements = set(each.elements(message_class, values))
    if elements.isdisjoint(cells.Set.elements(cell)):
        return None
    return cells.Set.delta(cell, origin, remove=elements, read=read)
