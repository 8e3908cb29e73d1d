"""Conflicts and concurrent values, in the terms of this region's contract."""

from __future__ import annotations

from google.protobuf.message import DecodeError, Message

from mesh.contracts.model import Merge
from mesh.replication.core import cells
from mesh.replication.core.cells import Version
from mesh.replication.core.clocks import Origin, milliseconds
from mesh.replication.core.conflicts import DELETED, MOVED, Conflict
from mesh.replication.core.entities import EntityState, enclosed
from mesh.replication.schema import EntitySchema
from mesh.replication.views import ConflictView, Value

_WITHOUT_FIELD = {DELETED: "DELETE", MOVED: "HOME"}


def view(conflict: Conflict, schema: EntitySchema) -> ConflictView:
    """A conflict as this contract reads it."""
    return ConflictView(
        type=conflict.entity[0],
        key=conflict.entity[1],
        generation=conflict.generation,
        field=schema.name_of(conflict.path),
        rule=_rule(conflict.rule),
        read=_value(conflict.read, conflict.path, schema),
        other=_value(conflict.other, conflict.path, schema),
    )


def _rule(number: int) -> str:
    try:
        return _WITHOUT_FIELD.get(number) or Merge(number).name
    except ValueError:
        return str(number)  # a newer version noted it, and this one reads its store


def versions(state: EntityState, schema: EntitySchema, field: str) -> list[Value]:
    """The values of a KEEP_BOTH field that stand; the one that reads give comes first.

    Raises `NotReplicated`.
    """
    each = schema.field(field, cells.KEEP_BOTH)
    cell = state.cells.get((each.path, each.rule))
    if cell is None:
        return []
    found = cells.both.versions(cell).values()
    return [_value(version, each.path, schema) for standing in found for version in standing]


def _value(version: Version, path: bytes, schema: EntitySchema) -> Value:
    stamp = version.stamp
    return Value(
        origin=None if stamp is None else Origin(stamp.region, stamp.incarnation),
        time_ms=None if stamp is None else milliseconds(stamp.clock),
        message=_message(enclosed(path, version.value), schema),
    )


def _message(data: bytes, schema: EntitySchema) -> Message:
    try:
        return schema.message_class.FromString(data)
    except DecodeError:
        return schema.message_class()  # as in `rendering`: what cannot be read counts as not set
