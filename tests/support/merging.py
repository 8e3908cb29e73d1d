"""An entity with one field for each merge rule."""

from __future__ import annotations

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message

from mesh.contracts.model import Contract, Entity, Field, Location, Merge
from mesh.replication.core import rendering
from mesh.replication.schema import GroupSchema
from tests.support.regions import Region

_Field = descriptor_pb2.FieldDescriptorProto
THING = "isthmus.tests.Thing"


def _thing() -> type[Message]:
    file = descriptor_pb2.FileDescriptorProto(
        name="isthmus/tests/thing.proto", package="isthmus.tests", syntax="proto3"
    )
    thing = file.message_type.add(name="Thing")
    entry = thing.nested_type.add(name="TagsEntry")
    entry.options.map_entry = True
    for number, name in enumerate(("key", "value"), 1):
        entry.field.add(
            name=name, number=number, type=_Field.TYPE_STRING, label=_Field.LABEL_OPTIONAL
        )
    for number, (name, kind) in enumerate(
        (
            ("id", _Field.TYPE_STRING),
            ("latest", _Field.TYPE_STRING),
            ("first", _Field.TYPE_STRING),
            ("most", _Field.TYPE_INT64),
            ("least", _Field.TYPE_INT64),
            ("count", _Field.TYPE_INT64),
            ("stock", _Field.TYPE_INT64),
            ("labels", _Field.TYPE_STRING),
            ("tags", _Field.TYPE_MESSAGE),
            ("note", _Field.TYPE_STRING),
        ),
        1,
    ):
        many = name in ("labels", "tags")
        field = thing.field.add(
            name=name,
            number=number,
            type=kind,
            label=_Field.LABEL_REPEATED if many else _Field.LABEL_OPTIONAL,
        )
        if name == "tags":
            field.type_name = ".isthmus.tests.Thing.TagsEntry"
        if name == "least":
            field.proto3_optional = True
            field.oneof_index = 0
            thing.oneof_decl.add(name="_least")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(THING))


Thing = _thing()


def _field(name: str, number: int, merge: Merge) -> Field:
    return Field(name, number, (number,), merge)


ENTITY = Entity(
    THING,
    "things",
    "id",
    1,
    False,
    (
        _field("latest", 2, Merge.LATEST),
        _field("first", 3, Merge.FIRST),
        _field("most", 4, Merge.MAX),
        _field("least", 5, Merge.MIN),
        _field("count", 6, Merge.COUNTER),
        Field("stock", 7, (7,), Merge.BOUNDED_COUNTER, at_least=0),
        _field("labels", 8, Merge.SET),
        _field("tags", 9, Merge.MAP),
        _field("note", 10, Merge.KEEP_BOTH),
    ),
    Location("isthmus/tests/thing.proto", 1),
)
CONTRACT = Contract(services={}, entities={THING: ENTITY}, group_digests={"things": b"digest"})
SCHEMA = GroupSchema([ENTITY], lambda name: Thing)


def read(region: Region, key: str = "t") -> Message | None:
    """What readers of a region see."""
    state = region.journal.committed.get((THING, key))
    if state is None or state.deleted:
        return None
    schema = SCHEMA.entities[THING]
    return Thing.FromString(rendering.render(state, schema.rules, schema.key_field(key)))
