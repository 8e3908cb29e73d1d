"""Entities: their key, and which fields carry a merge rule."""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf import descriptor_pb2
from isthmus.options.v1 import options_pb2

from mesh.contracts.rules.rule import Problem, Rule, Subject
from mesh.contracts.rules.walk import replicated
from mesh.contracts.schema import ENTITY, FIELD

_KEY = options_pb2.EntityContract.KEY_FIELD_NUMBER
_MERGE = options_pb2.FieldContract.MERGE_FIELD_NUMBER
_STRING = descriptor_pb2.FieldDescriptorProto.TYPE_STRING


def _key_wrong(subject: Subject) -> Iterator[Problem]:
    for message in subject.schema.entities():
        name = message.entity.key if message.entity else ""
        key = message.field(name)
        if not name or key is None:
            what = f'key "{name}" is no field of it' if name else "it has no key"
            yield Problem(
                message.source.at(ENTITY, _KEY),
                f"{message.name}: {what}",
                'write key: "..." with the name of a string field that never changes',
            )
        elif (
            key.proto.type != _STRING
            or key.repeated
            or key.oneof is not None
            or key.proto.proto3_optional
        ):
            yield Problem(
                key.source.at(),
                f"{key.full_name} is the key and not a plain string",
                f"write `string {key.name} = {key.proto.number};`",
            )


def _key_with_rule(subject: Subject) -> Iterator[Problem]:
    for message in subject.schema.entities():
        key = message.field(message.entity.key) if message.entity else None
        if key is not None and key.contract is not None:
            yield Problem(
                key.source.at(FIELD),
                f"{key.full_name} is the key and has a merge rule: a key never changes",
                "leave the (isthmus.options.v1.field) option out",
            )


def _rule_missing(subject: Subject) -> Iterator[Problem]:
    for field in replicated(subject.schema):
        if field.oneof is None and (field.contract is None or not field.contract.merge):
            yield Problem(
                field.source.at(FIELD, _MERGE),
                f"{field.full_name} is replicated and has no merge rule",
                "add [(isthmus.options.v1.field).merge = MERGE_LATEST], or another rule",
            )


def _bare_oneof(subject: Subject) -> Iterator[Problem]:
    for field in replicated(subject.schema):
        if field.oneof is not None:
            yield Problem(
                field.source.at(),
                f"{field.full_name} is a member of oneof {field.oneof}: "
                "concurrent writes could leave two members set",
                f"wrap the oneof in a message, and give the one field that holds it a rule "
                f"(MERGE_LATEST makes {field.oneof} one atomic cell)",
            )


def _outside_entity(subject: Subject) -> Iterator[Problem]:
    inside = {field.full_name for field in replicated(subject.schema)}
    for message in subject.schema.messages.values():
        for field in message.fields:
            is_key = message.entity is not None and field.name == message.entity.key
            if field.contract is not None and field.full_name not in inside and not is_key:
                yield Problem(
                    field.source.at(FIELD),
                    f"{field.full_name} has a merge rule, and {message.name} is not replicated: "
                    "it is neither an entity nor a field with MERGE_MESSAGE in one",
                    "leave the option out, or mark the message as an entity",
                )


RULES = (
    Rule("KEY_WRONG", "An entity has a key: a plain string field.", _key_wrong),
    Rule("KEY_WITH_RULE", "A key never changes, so nothing merges it.", _key_with_rule),
    Rule("MERGE_RULE_MISSING", "Every replicated field says how it merges.", _rule_missing),
    Rule("ONEOF_BARE", "A oneof is replicated as one atomic cell.", _bare_oneof),
    Rule("MERGE_RULE_OUTSIDE_ENTITY", "A rule that nothing reads is refused.", _outside_entity),
)
