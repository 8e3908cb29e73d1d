"""The merge schema: what a group's contract says, in the terms of the core.

Turns messages into deltas of cells. Only writers need it: merging does not.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from mesh.contracts.model import Entity, Field, Merge
from mesh.replication.core import cells
from mesh.replication.core.shapes import Shape, shape_of
from mesh.replication.core.wire import LENGTH, piece, read_piece, tag, varint
from mesh.replication.errors import NotReplicated, SchemaError
from mesh.replication.views import MessageClass

ClassOf = Callable[[str], MessageClass]
"""Finds a message class by its full name. Raises KeyError."""

_MERGED = {
    Merge.LATEST: cells.LATEST,
    Merge.FIRST: cells.FIRST,
    Merge.MAX: cells.MAX,
    Merge.MIN: cells.MIN,
    Merge.COUNTER: cells.COUNTER,
    Merge.BOUNDED_COUNTER: cells.BOUNDED_COUNTER,
    Merge.SET: cells.SET,
    Merge.MAP: cells.MAP,
    Merge.KEEP_BOTH: cells.KEEP_BOTH,
}
_UNSIGNED = {
    FieldDescriptor.CPPTYPE_UINT32,
    FieldDescriptor.CPPTYPE_UINT64,
    FieldDescriptor.CPPTYPE_BOOL,
}
_SIGNED = {
    FieldDescriptor.CPPTYPE_INT32,
    FieldDescriptor.CPPTYPE_INT64,
    FieldDescriptor.CPPTYPE_ENUM,
}
_FLOATS = {FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE}


def generated_class(name: str) -> MessageClass:
    """The generated class of a message type whose module is imported. Raises KeyError."""
    descriptor = descriptor_pool.Default().FindMessageTypeByName(name)
    return message_factory.GetMessageClass(descriptor)


@dataclass(frozen=True)
class FieldSchema:
    """A replicated field that is one cell: `names` lead to it from the entity."""

    entity: str
    names: tuple[str, ...]
    path: bytes
    rule: int
    descriptor: FieldDescriptor
    order_by: tuple[str, ...]
    at_least: int
    resident: bool

    def __str__(self) -> str:
        return f"{self.entity}.{'.'.join(self.names)}"

    def parent(self, message: Message) -> Message:
        """The message that holds the field; unset ones on the way read as empty."""
        for name in self.names[:-1]:
            message = getattr(message, name)
        return message

    def value(self, message: Message) -> bytes:
        """The canonical encoding of the field inside its parent; empty if it is not set."""
        parent = self.parent(message)
        name = self.names[-1]
        alone = type(parent)()
        if self.descriptor.is_repeated:
            getattr(alone, name).MergeFrom(getattr(parent, name))
        elif self.descriptor.has_presence and not parent.HasField(name):
            return b""
        elif self.descriptor.message_type is not None:
            getattr(alone, name).CopyFrom(getattr(parent, name))
        else:
            setattr(alone, name, getattr(parent, name))
        return alone.SerializeToString(deterministic=True)

    def elements(self, message_class: MessageClass, values: Iterable[Any]) -> list[bytes]:
        """The canonical encodings of values as single entries of this repeated field."""
        encoded = []
        for value in values:
            alone = self.parent(message_class())
            alone = type(alone)()
            entries = getattr(alone, self.names[-1])
            if self.descriptor.message_type is not None:
                entries.add().CopyFrom(value)
            else:
                entries.append(value)
            encoded.append(alone.SerializeToString(deterministic=True))
        return encoded

    def entries(self, message_class: MessageClass, values: Mapping[Any, Any]) -> list[bytes]:
        """The canonical encodings of single entries of this map field.

        A value of None stands for the default one.
        """
        encoded = []
        for key, value in values.items():
            alone = self.parent(message_class())
            alone = type(alone)()
            entries = getattr(alone, self.names[-1])
            if value is None:
                entries[key]  # reading makes the default entry
            elif isinstance(value, Message):
                entries[key].CopyFrom(value)
            else:
                entries[key] = value
            encoded.append(alone.SerializeToString(deterministic=True))
        return encoded

    def rank(self, message: Message) -> bytes:
        """What orders the field's value under MAX and MIN, comparable as bytes."""
        value = getattr(self.parent(message), self.names[-1])
        if not self.order_by:
            return rank(self.descriptor, value)
        parts = []
        for names in self.order_by:
            *way, last = names.split(".")
            inner = value
            for name in way:
                inner = getattr(inner, name)
            parts.append(rank(inner.DESCRIPTOR.fields_by_name[last], getattr(inner, last)))
        return b"".join(parts)


def rank(field: FieldDescriptor, value: Any) -> bytes:
    """A scalar as bytes that compare as it does; ranks may follow one another.

    Strings and bytes are escaped and ended, so that a prefix ranks below what it begins.
    """
    kind = field.cpp_type
    if kind in _UNSIGNED:
        return int(value).to_bytes(8, "big")
    if kind in _SIGNED:
        return (int(value) + (1 << 63)).to_bytes(8, "big")
    if kind in _FLOATS:
        bits = int.from_bytes(struct.pack(">d", value), "big")
        flipped = bits ^ ((1 << 64) - 1 if bits >> 63 else 1 << 63)
        return flipped.to_bytes(8, "big")
    raw = value.encode() if isinstance(value, str) else bytes(value)
    return raw.replace(b"\0", b"\0\xff") + b"\0\0"


class EntitySchema:
    """One entity of the group; `rules` says by path under which rule this contract reads.

    `home` is the field that names its home region, if one region writes it; `resident` are the
    paths of the fields that stay in it.
    """

    def __init__(self, entity: Entity, message_class: MessageClass) -> None:
        self.name = entity.name
        self.history = entity.history
        self.message_class = message_class
        self.key_name = entity.key
        self.key_number = entity.key_number
        self._key_tag = tag(entity.key_number, LENGTH)
        self.fields = {".".join(f.names): f for f in _flatten(entity, message_class)}
        self.rules = {field.path: field.rule for field in self.fields.values()}
        self.bounded = [f for f in self.fields.values() if f.rule == cells.BOUNDED_COUNTER]
        self.home = self.fields.get(entity.home)
        self.resident = frozenset(field.path for field in self.fields.values() if field.resident)
        descriptor = message_class.DESCRIPTOR
        others = {field.number for field in descriptor.fields} - {entity.key_number}
        self._all_but_the_key: Shape | None = None
        if others and entity.key_number < min(others):
            self._all_but_the_key = shape_of((varint(number), cells.LATEST) for number in others)
        # Only maps are encoded in any order, and slower if they may not be.
        self._has_maps = _has_maps(descriptor, set())
        self._names = {field.path: name for name, field in self.fields.items()}

    def keep(self, paths: Iterable[bytes]) -> None:
        """The fields at these paths stay as well, and so do those above and below them."""
        for kept in paths:
            self.resident |= {
                path for path in self.rules if path.startswith(kept) or kept.startswith(path)
            }

    def key_of(self, message: Message) -> str:
        """The key in a message. Raises `NotReplicated` if it is empty or of another type."""
        if message.DESCRIPTOR.full_name != self.name:
            raise NotReplicated(f"{message.DESCRIPTOR.full_name} is not {self.name}")
        key: str = getattr(message, self.key_name)
        if not key:
            raise NotReplicated(f"{self.name}.{self.key_name} is empty: an entity needs its key")
        return key

    def keys_of(self, messages: Sequence[Message]) -> list[str]:
        """The keys in some messages, as `key_of`."""
        name, message_class = self.key_name, self.message_class
        if all(type(message) is message_class for message in messages):
            keys: list[str] = [getattr(message, name) for message in messages]
            if all(keys):
                return keys
        return list(map(self.key_of, messages))

    def encoded(self, messages: Iterable[Message]) -> list[bytes]:
        """The canonical encodings of an entity's messages."""
        if self._has_maps:
            return [message.SerializeToString(deterministic=True) for message in messages]
        return [message.SerializeToString() for message in messages]

    def without_keys(self, encoded: Iterable[bytes]) -> list[bytes]:
        """Messages without their keys, which come first: see `is_all_but_the_key`."""
        at = len(self._key_tag)
        return [
            each[at + 1 + each[at] :] if each[at] < 128 else each[read_piece(each, at)[1] :]
            for each in encoded
        ]

    def is_all_but_the_key(self, shape: Shape) -> bool:
        """Whether a plain shape is all fields of the message but its key, which comes first."""
        return shape == self._all_but_the_key

    def key_field(self, key: str) -> bytes:
        """The encoded key field."""
        return self._key_tag + piece(key.encode())

    def field(self, name: str, *rules: int) -> FieldSchema:
        """A field by its dotted name. Raises `NotReplicated` if its rule is none of `rules`."""
        found = self.fields.get(name)
        if found is None:
            known = ", ".join(self.fields)
            raise NotReplicated(f"{self.name} has no replicated field {name!r}; it has {known}")
        if found.rule not in rules:
            raise NotReplicated(
                f"{found} merges by {Merge(found.rule).name}, which does not take this change"
            )
        return found

    def below(self, name: str) -> list[FieldSchema]:
        """The fields below one that merges by MESSAGE; empty if it is none."""
        return [field for key, field in self.fields.items() if key.startswith(f"{name}.")]

    def named(self, names: Iterable[str], *rules: int) -> Iterator[FieldSchema]:
        """The fields of these names that merge by one of `rules`; without names, all such fields.

        The name of a MESSAGE stands for such fields below it. Raises `NotReplicated`.
        """
        if not names:
            yield from (field for field in self.fields.values() if field.rule in rules)
        for name in names:
            below = self.below(name)
            if below:
                yield from (field for field in below if field.rule in rules)
            else:
                yield self.field(name, *rules)

    def name_of(self, path: bytes) -> str:
        """The dotted name of a cell's path; its numbers if this contract does not know it."""
        return self._names.get(path) or ".".join(map(str, path))


class GroupSchema:
    """The entities of a group, by message type."""

    def __init__(self, entities: Iterable[Entity], class_of: ClassOf = generated_class) -> None:
        self.entities: dict[str, EntitySchema] = {}
        for entity in entities:
            try:
                message_class = class_of(entity.name)
            except KeyError:
                raise SchemaError(
                    f"{entity.location}: the generated class of {entity.name} is not loaded: "
                    "import its module before the group is opened"
                ) from None
            self.entities[entity.name] = EntitySchema(entity, message_class)
        self.discreet = bool(self.resident_fields)

    @property
    def resident_fields(self) -> frozenset[tuple[str, bytes]]:
        """The fields that stay in a home region, by message type and path."""
        return frozenset(
            (name, path) for name, entity in self.entities.items() for path in entity.resident
        )

    def keep(self, fields: Iterable[tuple[str, bytes]]) -> None:
        """These fields stay in a home region, whatever this contract says of them.

        An older one may not know them, or know them as fields that go everywhere.
        """
        for type, path in fields:
            self.discreet = True
            if type in self.entities:
                self.entities[type].keep([path])

    def entity(self, type: str) -> EntitySchema:
        """The schema of a message type. Raises `NotReplicated`."""
        found = self.entities.get(type)
        if found is None:
            known = ", ".join(self.entities) or "none"
            raise NotReplicated(f"{type} is no entity of this group; its entities are {known}")
        return found

    @property
    def history_types(self) -> Mapping[str, EntitySchema]:
        """The entities whose history is kept."""
        return {name: entity for name, entity in self.entities.items() if entity.history}


def _flatten(entity: Entity, message_class: MessageClass) -> Iterator[FieldSchema]:
    def walk(
        fields: Iterable[Field], descriptor: Any, names: tuple[str, ...]
    ) -> Iterator[FieldSchema]:
        for field in fields:
            found = descriptor.fields_by_number[field.number]
            here = (*names, field.name)
            if field.merge is Merge.MESSAGE:
                yield from walk(field.fields, found.message_type, here)
                continue
            rule = _MERGED.get(field.merge)
            where = f"{entity.location}: {entity.name}.{'.'.join(here)}"
            if rule is None:
                raise SchemaError(f"{where}: MERGE_{field.merge.name} is not supported yet")
            _check(where, rule, found)
            path = b"".join(map(varint, field.path))
            bound = field.at_least or 0
            yield FieldSchema(
                entity.name, here, path, rule, found, field.order_by, bound, field.resident
            )

    yield from walk(entity.fields, message_class.DESCRIPTOR, ())


def _check(where: str, rule: int, field: FieldDescriptor) -> None:
    if rule in (cells.COUNTER, cells.BOUNDED_COUNTER) and field.type not in (
        FieldDescriptor.TYPE_INT64,
        FieldDescriptor.TYPE_INT32,
    ):
        raise SchemaError(f"{where}: a COUNTER is an int64 field")
    if rule == cells.SET and (not field.is_repeated or _is_map(field)):
        raise SchemaError(f"{where}: a SET is a repeated field")
    if rule == cells.MAP and not _is_map(field):
        raise SchemaError(f"{where}: a MAP is a map field")
    if rule == cells.MIN and not field.has_presence:
        raise SchemaError(
            f"{where}: a MIN is an optional field or a message: else what nobody set is the least"
        )
    oneof = field.containing_oneof
    if oneof is not None and field.has_presence and len(oneof.fields) > 1:
        raise SchemaError(
            f"{where}: its oneof would be several cells: put the oneof into a message of its own"
        )


def _has_maps(descriptor: Any, seen: set[str]) -> bool:
    if descriptor.GetOptions().map_entry:
        return True
    seen.add(descriptor.full_name)
    below = (field.message_type for field in descriptor.fields)
    return any(_has_maps(each, seen) for each in below if each and each.full_name not in seen)


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry
