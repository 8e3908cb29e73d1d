"""Homes: which region writes an entity, and what must not leave it."""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf import descriptor_pb2
from isthmus.options.v1 import options_pb2

from mesh.contracts.rules.rule import Problem, Rule, Subject
from mesh.contracts.rules.walk import inner_message, nested, replicated
from mesh.contracts.schema import ENTITY, FIELD, METHOD, FieldNode, MessageNode, Schema

_HOME = options_pb2.EntityContract.HOME_FIELD_NUMBER
_HOME_FIELD = options_pb2.EntityContract.HOME_FIELD_FIELD_NUMBER
_MERGE = options_pb2.FieldContract.MERGE_FIELD_NUMBER
_SCOPE = options_pb2.FieldContract.SCOPE_FIELD_NUMBER
_LOCALITY = options_pb2.MethodContract.LOCALITY_FIELD_NUMBER
_DURABILITY = options_pb2.MethodContract.DURABILITY_FIELD_NUMBER
_STRING = descriptor_pb2.FieldDescriptorProto.TYPE_STRING
_LOCAL = (options_pb2.LOCALITY_UNSPECIFIED, options_pb2.LOCALITY_LOCAL)
_HERE_ALONE = (options_pb2.DURABILITY_UNSPECIFIED, options_pb2.DURABILITY_REGION)


def _home_field(subject: Subject) -> Iterator[Problem]:
    for message in subject.schema.entities():
        contract = message.entity
        if contract is None:
            continue
        name = contract.home_field
        if contract.home != options_pb2.HOME_ONE_REGION:
            if name:
                yield Problem(
                    message.source.at(ENTITY, _HOME_FIELD),
                    f"{message.name} names a home_field, and any region writes it",
                    "add home: HOME_ONE_REGION, or leave home_field out",
                )
            continue
        field = message.field(name) if name != contract.key else None
        if field is None:
            yield Problem(
                message.source.at(ENTITY, _HOME_FIELD if name else _HOME),
                f"{message.name}: no field of it says which region is the home of an entity",
                'write home_field: "home", and a field such as '
                "`string home = 2 [(isthmus.options.v1.field).merge = MERGE_FIRST]`",
            )
        elif not _names_a_home(field):
            yield Problem(
                field.source.at(FIELD, _MERGE),
                f"{field.full_name} names the home region, and is no plain string that is set once",
                f"write `string {field.name} = {field.proto.number} "
                "[(isthmus.options.v1.field).merge = MERGE_FIRST]`",
            )


def _names_a_home(field: FieldNode) -> bool:
    plain = field.proto.type == _STRING and not field.repeated and not field.proto.proto3_optional
    contract = field.contract
    return (
        plain
        and field.oneof is None
        and contract is not None
        and contract.merge == options_pb2.MERGE_FIRST
        and contract.scope != options_pb2.SCOPE_HOME_REGION
    )


def _scope_without_home(subject: Subject) -> Iterator[Problem]:
    for message in subject.schema.entities():
        if message.entity and message.entity.home == options_pb2.HOME_ONE_REGION:
            continue
        for field in nested(subject.schema, message):
            if _stays(field):
                yield Problem(
                    field.source.at(FIELD, _SCOPE),
                    f"{field.full_name} shall stay in the home region, "
                    f"and {message.name} has no home",
                    "write home: HOME_ONE_REGION on the entity, or leave scope out",
                )


def _scope_and_merge(subject: Subject) -> Iterator[Problem]:
    several = (options_pb2.MERGE_KEEP_BOTH, options_pb2.MERGE_BOUNDED_COUNTER)
    resident = _resident(subject.schema)
    for field in replicated(subject.schema):
        if field.full_name in resident and field.contract and field.contract.merge in several:
            rule = options_pb2.Merge.Name(field.contract.merge)
            yield Problem(
                field.source.at(FIELD, _MERGE),
                f"{field.full_name} stays in the home region, and {rule} is for what several "
                "regions write",
                "write MERGE_LATEST, MERGE_COUNTER or another rule, or leave scope out",
            )


def _carried_away(subject: Subject) -> Iterator[Problem]:
    resident = _resident(subject.schema)
    for method in subject.schema.methods():
        if method.contract.locality in _LOCAL:
            continue
        for name in (method.proto.input_type, method.proto.output_type):
            carried = _carries(subject.schema, name.lstrip("."), resident)
            if carried is not None:
                yield Problem(
                    method.source.at(METHOD, _LOCALITY),
                    f"{method.name}: its messages hold {carried}, which stays in the home region, "
                    "and another region may serve the call",
                    "write LOCALITY_LOCAL, or a message without that field",
                )
                break


def _home_unknown(subject: Subject) -> Iterator[Problem]:
    for method in subject.schema.methods():
        if method.contract.locality != options_pb2.LOCALITY_HOME:
            continue
        where = method.source.at(METHOD, _LOCALITY)
        named = [message.name for message in subject.schema.homed(method)]
        if method.streaming:
            yield Problem(
                where,
                f"{method.name} streams: LOCALITY_HOME is for one request that names one entity",
                "write LOCALITY_NEAREST, LOCALITY_LOCAL or LOCALITY_PINNED",
            )
        elif len(named) != 1:
            yield Problem(
                where,
                f"{method.name}: LOCALITY_HOME needs a request that names one entity with a home, "
                f"and it names {', '.join(named) or 'none'}",
                "give the request a string field called as the key of an entity of the workload's "
                "group with home: HOME_ONE_REGION, or write LOCALITY_NEAREST or LOCALITY_LOCAL",
            )


def _not_durable_elsewhere(subject: Subject) -> Iterator[Problem]:
    resident = _resident(subject.schema)
    for method in subject.schema.methods():
        if method.contract.durability in _HERE_ALONE:
            continue
        carried = _carries(subject.schema, method.proto.input_type.lstrip("."), resident)
        if carried is not None:
            durability = options_pb2.Durability.Name(method.contract.durability)
            yield Problem(
                method.source.at(METHOD, _DURABILITY),
                f"{method.name}: {durability} cannot hold for {carried}, which is on the disk of "
                "the home region alone",
                "leave durability out, or write that field by a method of its own",
            )


def _resident(schema: Schema) -> frozenset[str]:
    """The full names of the fields that stay in a home region, those below others included."""
    found: set[str] = set()
    waiting = [
        field
        for entity in schema.entities()
        if entity.entity and entity.entity.home == options_pb2.HOME_ONE_REGION
        for field in nested(schema, entity)
        if _stays(field)
    ]
    while waiting:
        field = waiting.pop()
        if field.full_name in found:
            continue
        found.add(field.full_name)
        inner = inner_message(schema, field)
        waiting += inner.fields if inner is not None else ()
    return frozenset(found)


def _stays(field: FieldNode) -> bool:
    return field.contract is not None and field.contract.scope == options_pb2.SCOPE_HOME_REGION


def _carries(schema: Schema, name: str, fields: frozenset[str]) -> str | None:
    """One of the fields that a message can hold, however deep; None if it can hold none."""
    seen: set[str] = set()
    waiting: list[MessageNode | None] = [schema.messages.get(name)] if fields else []
    while waiting:
        message = waiting.pop()
        if message is None or message.name in seen:
            continue
        seen.add(message.name)
        for field in message.fields:
            if field.full_name in fields:
                return field.full_name
            waiting.append(schema.messages.get(field.type))
    return None


RULES = (
    Rule("HOME_FIELD", "One field of an entity with a home names that region.", _home_field),
    Rule("SCOPE_WITHOUT_HOME", "What stays in the home region needs one.", _scope_without_home),
    Rule(
        "SCOPE_MERGE", "What one region alone has is not merged between several.", _scope_and_merge
    ),
    Rule("HOME_NAMED", "A call goes to the home of the entity that it names.", _home_unknown),
    Rule("SCOPE_LOCALITY", "No call carries out what stays in the home region.", _carried_away),
    Rule(
        "SCOPE_DURABILITY",
        "What stays in the home region is durable there alone.",
        _not_durable_elsewhere,
    ),
)
