"""Conflicts and concurrent values, in the terms of this region's contract."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from isthmus.replication.v1 import conflict_pb2

from mesh.contracts import redaction
from mesh.contracts.model import Merge
from mesh.replication.core import cells
from mesh.replication.core.cells import Version
from mesh.replication.core.clocks import Origin, milliseconds, origin_from_proto
from mesh.replication.core.conflicts import DELETED, MOVED, Conflict
from mesh.replication.core.entities import EntityState
from mesh.replication.core.rendering import enclosed
from mesh.replication.core.wire import numbers
from mesh.replication.schema import EntitySchema
from mesh.replication.views import ConflictView, Value

NEWEST = 1000
NEWEST_BYTES = 1 << 20
"""How many conflicts, and how many bytes of values in them, are shown at once at most."""

_WITHOUT_FIELD = {DELETED: "DELETE", MOVED: "HOME"}


def views(found: Iterable[Conflict], known: Mapping[str, EntitySchema]) -> Iterator[ConflictView]:
    """Conflicts as this contract reads them, the newest first as they come; within the limits.

    Those of entities that it does not know are left out, and those of fields that stay at home.
    """
    size = 0
    for number, conflict in enumerate(islice(found, NEWEST)):
        size += len(conflict.read.value) + len(conflict.other.value)
        if number and size > NEWEST_BYTES:
            return
        schema = known.get(conflict.entity[0])
        if schema is not None and conflict.path not in schema.resident:
            yield view(conflict, schema)


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
    message = _message(enclosed(path, version.value), schema)
    for resident in schema.resident:
        _clear(message, numbers(resident))
    return Value(
        origin=None if stamp is None else Origin(stamp.region, stamp.incarnation),
        time_ms=None if stamp is None else milliseconds(stamp.clock),
        message=message,
    )


def _clear(message: Message, path: Sequence[int]) -> None:
    """Clears what a path of field numbers names."""
    field = message.DESCRIPTOR.fields_by_number.get(path[0])
    if field is None:
        return
    if len(path) == 1:
        message.ClearField(field.name)
    elif field.type == FieldDescriptor.TYPE_MESSAGE and message.HasField(field.name):
        _clear(getattr(message, field.name), path[1:])


def to_proto(view: ConflictView) -> conflict_pb2.ConflictView:
    """A conflict for others to see: without what is marked `debug_redact` or stays at home."""
    return conflict_pb2.ConflictView(
        type=view.type,
        key=view.key,
        generation=view.generation,
        field=view.field,
        rule=view.rule,
        read=_shown(view.read),
        other=_shown(view.other),
    )


def _shown(value: Value) -> conflict_pb2.ConflictValue:
    message = type(value.message)()
    message.CopyFrom(value.message)
    # What this contract does not know may be marked in the one that does.
    message.DiscardUnknownFields()
    found = conflict_pb2.ConflictValue(redacted=redaction.strip(message))
    found.value = message.SerializeToString(deterministic=True)
    if value.origin is not None:
        found.origin.region, found.origin.incarnation = value.origin
    if value.time_ms is not None:
        found.time.FromMilliseconds(value.time_ms)
    return found


def from_proto(message: conflict_pb2.ConflictView, message_class: type[Message]) -> ConflictView:
    """A conflict as another workload shows it."""
    return ConflictView(
        type=message.type,
        key=message.key,
        generation=message.generation,
        field=message.field,
        rule=message.rule,
        read=_read(message.read, message_class),
        other=_read(message.other, message_class),
    )


def _read(value: conflict_pb2.ConflictValue, message_class: type[Message]) -> Value:
    return Value(
        origin=origin_from_proto(value.origin) if value.HasField("origin") else None,
        time_ms=value.time.ToMilliseconds() if value.HasField("time") else None,
        message=message_class.FromString(value.value),
        redacted=tuple(value.redacted),
    )


def _message(data: bytes, schema: EntitySchema) -> Message:
    try:
        return schema.message_class.FromString(data)
    except DecodeError:
        return schema.message_class()  # as in `rendering`: what cannot be read counts as not set
