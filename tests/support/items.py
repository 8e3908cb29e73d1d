"""An entity whose fields are all LATEST, as those that are written in bulk."""

from __future__ import annotations

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message

from mesh.contracts.model import Entity, Field, Location, Merge
from mesh.replication.schema import GroupSchema

_Field = descriptor_pb2.FieldDescriptorProto
ITEM = "isthmus.tests.Item"
NAMES = ("first", "second", "third")


def item_class(*names: str) -> type[Message]:
    """The message class with these fields."""
    file = descriptor_pb2.FileDescriptorProto(
        name="isthmus/tests/item.proto", package="isthmus.tests", syntax="proto3"
    )
    message = file.message_type.add(name="Item")
    for number, name in enumerate(("id", *names), 1):
        message.field.add(
            name=name, number=number, type=_Field.TYPE_STRING, label=_Field.LABEL_OPTIONAL
        )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(ITEM))


Item = item_class(*NAMES)
FIELDS = tuple(Field(name, at, (at,), Merge.LATEST) for at, name in enumerate(NAMES, 2))
ENTITY = Entity(ITEM, "items", "id", 1, False, FIELDS, Location("isthmus/tests/item.proto", 1))
SCHEMA = GroupSchema([ENTITY], lambda name: Item)
