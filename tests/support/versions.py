"""Two versions of a contract, and of what reads it: classes and entities of either."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message

from mesh.contracts.model import Contract, Entity, Field, Location, Merge
from mesh.replication.core.cells import KEEP_BOTH
from mesh.replication.core.parked import KNOWN, Known

_Proto = descriptor_pb2.FieldDescriptorProto
_TEXT, _INT = _Proto.TYPE_STRING, _Proto.TYPE_INT64
ITEM, EXTRA = "isthmus.rolling.Item", "isthmus.rolling.Extra"


@dataclass(frozen=True)
class Version:
    """A contract with its classes, and what the version that runs with it reads."""

    contract: Contract
    classes: dict[str, type[Message]]
    known: Known

    def item(self, **fields: Any) -> Message:
        """An Item."""
        return self.classes[ITEM](**fields)


def _text(name: str, number: int, merge: Merge) -> tuple[Field, int]:
    return Field(name, number, (number,), merge), _TEXT


def _int(name: str, number: int, merge: Merge) -> tuple[Field, int]:
    return Field(name, number, (number,), merge), _INT


def _version(digest: bytes, known: Known, **messages: list[tuple[Field, int]]) -> Version:
    file = descriptor_pb2.FileDescriptorProto(
        name="isthmus/rolling.proto", package="isthmus.rolling", syntax="proto3"
    )
    entities = {}
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        message.field.add(name="id", number=1, type=_TEXT, label=_Proto.LABEL_OPTIONAL)
        for field, kind in fields:
            _add(message, field, kind)
        full = f"isthmus.rolling.{name}"
        where = Location("isthmus/rolling.proto", 1)
        replicated = tuple(field for field, _ in fields)
        entities[full] = Entity(full, "rolling", "id", 1, False, replicated, where)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    classes = {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(name)) for name in entities
    }
    contract = Contract(services={}, entities=entities, group_digests={"rolling": digest})
    return Version(contract, classes, known)


def _add(message: descriptor_pb2.DescriptorProto, field: Field, kind: int) -> None:
    """A field of a message; one that merges by MESSAGE has a message of its own."""
    many = field.merge is Merge.SET
    added = message.field.add(
        name=field.name,
        number=field.number,
        type=kind,  # type: ignore[arg-type] # a plain number of the enum
        label=_Proto.LABEL_REPEATED if many else _Proto.LABEL_OPTIONAL,
    )
    if field.merge is Merge.MESSAGE or kind == _Proto.TYPE_MESSAGE:
        inner = message.nested_type.add(name=field.name.capitalize())
        added.type = _Proto.TYPE_MESSAGE
        added.type_name = f".isthmus.rolling.{message.name}.{inner.name}"
        for each in field.fields:
            inner.field.add(
                name=each.name, number=each.number, type=_INT, label=_Proto.LABEL_OPTIONAL
            )


def _size(*names: str, merge: Merge = Merge.MESSAGE) -> tuple[Field, int]:
    fields = tuple(
        Field(name, number, (6, number), Merge.LATEST) for number, name in enumerate(names, 1)
    )
    return Field("size", 6, (6,), merge, fields=fields), _Proto.TYPE_MESSAGE


OLD = _version(
    b"old",
    Known(KNOWN.rules - {KEEP_BOTH}, KNOWN.kinds),
    Item=[
        _text("title", 2, Merge.LATEST),
        _text("retired", 3, Merge.LATEST),
        _int("grade", 4, Merge.LATEST),
        _size("width"),
        _int("count", 8, Merge.COUNTER),
    ],
)
"""It does not know KEEP_BOTH at all."""

NEW = _version(
    b"new",
    KNOWN,
    Item=[
        _text("title", 2, Merge.LATEST),
        _int("grade", 4, Merge.MAX),
        _text("tags", 5, Merge.SET),
        _size("width", "height"),
        _text("note", 7, Merge.KEEP_BOTH),
        _int("count", 8, Merge.COUNTER),
    ],
    Extra=[_text("title", 2, Merge.LATEST)],
)
"""A field is gone, fields and an entity are new, and one merges by another rule."""

ATOMIC = _version(
    b"atomic", KNOWN, Item=[_text("title", 2, Merge.LATEST), _size("width", merge=Merge.LATEST)]
)
"""A message that merged by its fields is one cell."""
