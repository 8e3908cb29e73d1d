"""An entity that one region writes, with fields that stay there."""

from __future__ import annotations

from dataclasses import replace

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message
from isthmus.options.v1 import options_pb2

from mesh.contracts.model import Contract, Entity, Field, Location, Merge
from mesh.replication.schema import generated_class

_Field = descriptor_pb2.FieldDescriptorProto
PERSON = "isthmus.tests.Person"


def _person() -> type[Message]:
    file = descriptor_pb2.FileDescriptorProto(
        name="isthmus/tests/person.proto", package="isthmus.tests", syntax="proto3"
    )
    person = file.message_type.add(name="Person")
    papers = person.nested_type.add(name="Papers")
    for message, fields in (
        (
            person,
            (
                ("id", _Field.TYPE_STRING),
                ("home", _Field.TYPE_STRING),
                ("title", _Field.TYPE_STRING),
                ("visits", _Field.TYPE_INT64),
                ("stock", _Field.TYPE_INT64),
                ("labels", _Field.TYPE_STRING),
                ("pin", _Field.TYPE_BYTES),
                ("doctors", _Field.TYPE_STRING),
                ("fines", _Field.TYPE_INT64),
                ("papers", _Field.TYPE_MESSAGE),
            ),
        ),
        (papers, (("kind", _Field.TYPE_STRING), ("passport", _Field.TYPE_BYTES))),
    ):
        for number, (name, kind) in enumerate(fields, 1):
            many = name in ("labels", "doctors")
            field = message.field.add(
                name=name,
                number=number,
                type=kind,
                label=_Field.LABEL_REPEATED if many else _Field.LABEL_OPTIONAL,
            )
            if name in ("pin", "doctors", "fines", "passport"):
                scope = options_pb2.SCOPE_HOME_REGION
                field.options.Extensions[options_pb2.field].scope = scope
            if kind == _Field.TYPE_MESSAGE:
                field.type_name = ".isthmus.tests.Person.Papers"
    pool = descriptor_pool.Default()  # where the kept results of requests find their types
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(PERSON))


Person = _person()


def class_of(name: str) -> type[Message]:
    """Finds the class of a message type."""
    return Person if name == PERSON else generated_class(name)


def _field(name: str, number: int, merge: Merge, *, resident: bool = False) -> Field:
    return Field(name, number, (number,), merge, resident=resident)


_PAPERS = (
    Field("kind", 1, (10, 1), Merge.LATEST),
    Field("passport", 2, (10, 2), Merge.LATEST, resident=True),
)

ENTITY = Entity(
    PERSON,
    "persons",
    "id",
    1,
    True,
    (
        _field("home", 2, Merge.FIRST),
        _field("title", 3, Merge.LATEST),
        _field("visits", 4, Merge.COUNTER),
        Field("stock", 5, (5,), Merge.BOUNDED_COUNTER, at_least=0),
        _field("labels", 6, Merge.SET),
        _field("pin", 7, Merge.LATEST, resident=True),
        _field("doctors", 8, Merge.SET, resident=True),
        _field("fines", 9, Merge.COUNTER, resident=True),
        Field("papers", 10, (10,), Merge.MESSAGE, fields=_PAPERS),
    ),
    Location("isthmus/tests/person.proto", 1),
    home="home",
)


def contract(*without: str, everywhere: bool = False) -> Contract:
    """The persons group; `without` names fields that an older contract does not have yet.

    In one that is older still any region writes, and every field goes `everywhere`.
    """
    fields = tuple(field for field in ENTITY.fields if field.name not in without)
    entity = replace(ENTITY, fields=fields, home="" if "home" in without else "home")
    if everywhere:
        fields = tuple(
            Field(f.name, f.number, f.path, Merge.LATEST) if f.name == "papers" else f
            for f in (replace(field, resident=False) for field in fields)
        )
        entity = replace(entity, fields=fields, home="")
    return Contract(services={}, entities={PERSON: entity}, group_digests={"persons": b"digest"})
