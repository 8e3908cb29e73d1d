"""Merge rules fit the type that they merge."""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf import descriptor_pb2
from isthmus.options.v1 import options_pb2

from mesh.contracts.rules.rule import Problem, Rule, Subject
from mesh.contracts.rules.walk import inner_message, mergeable, replicated
from mesh.contracts.schema import FIELD, FieldNode, MessageNode, Schema

_MERGE = options_pb2.FieldContract.MERGE_FIELD_NUMBER
_ORDER_BY = options_pb2.FieldContract.ORDER_BY_FIELD_NUMBER
_AT_LEAST = options_pb2.FieldContract.AT_LEAST_FIELD_NUMBER
_COUNTERS = (options_pb2.MERGE_COUNTER, options_pb2.MERGE_BOUNDED_COUNTER)
_ORDERED = (options_pb2.MERGE_MAX, options_pb2.MERGE_MIN)

_Type = descriptor_pb2.FieldDescriptorProto
_FLOATS = {_Type.TYPE_DOUBLE, _Type.TYPE_FLOAT}
_COMPOSITE = {_Type.TYPE_MESSAGE, _Type.TYPE_GROUP}


def _with_merge(subject: Subject, *rules: int) -> Iterator[FieldNode]:
    for field in replicated(subject.schema):
        if field.contract is not None and field.contract.merge in rules:
            yield field


def _counter(subject: Subject) -> Iterator[Problem]:
    for field in _with_merge(subject, *_COUNTERS):
        plain = not field.repeated and not field.proto.proto3_optional
        if field.proto.type != _Type.TYPE_INT64 or not plain:
            yield Problem(
                field.source.at(FIELD, _MERGE),
                f"{field.full_name}: a counter adds up increments of an int64, "
                f"and this is {_described(field)}",
                f"write `int64 {field.name} = {field.proto.number}`, or another rule",
            )


def _bound(subject: Subject) -> Iterator[Problem]:
    for field in replicated(subject.schema):
        if field.contract is None:
            continue
        bounded = field.contract.merge == options_pb2.MERGE_BOUNDED_COUNTER
        if bounded and (not field.contract.HasField("at_least") or field.contract.at_least < 0):
            yield Problem(
                field.source.at(FIELD, _AT_LEAST),
                f"{field.full_name}: MERGE_BOUNDED_COUNTER needs a bound of 0 or more",
                "write at_least: 0, and count what is left rather than what was taken",
            )
        elif field.contract.HasField("at_least") and not bounded:
            yield Problem(
                field.source.at(FIELD, _AT_LEAST),
                f"{field.full_name}: at_least bounds a MERGE_BOUNDED_COUNTER alone",
                "leave at_least out, or write merge: MERGE_BOUNDED_COUNTER",
            )


def _set(subject: Subject) -> Iterator[Problem]:
    for field in _with_merge(subject, options_pb2.MERGE_SET):
        if not field.repeated or field.proto.type in _COMPOSITE | _FLOATS:
            yield Problem(
                field.source.at(FIELD, _MERGE),
                f"{field.full_name}: MERGE_SET needs elements that are equal or not, "
                f"and this is {_described(field)}",
                "write a repeated string, bytes, bool, enum or integer; for messages, make each "
                "an entity, or write MERGE_LATEST to replace the list as a whole",
            )


def _ordered(subject: Subject) -> Iterator[Problem]:
    for field in _with_merge(subject, *_ORDERED):
        rule = options_pb2.Merge.Name(field.contract.merge) if field.contract else ""
        if field.repeated or field.proto.type in _FLOATS:
            yield Problem(
                field.source.at(FIELD, _MERGE),
                f"{field.full_name}: {rule} needs one value with a total order, "
                f"and this is {_described(field)}",
                "write an integer in a fixed unit, a string, bytes, bool or enum, or a message "
                "with order_by",
            )
        elif field.is_message and field.contract and not field.contract.order_by:
            yield Problem(
                field.source.at(FIELD, _MERGE),
                f"{field.full_name}: {rule} of a message does not say what orders it",
                'add order_by: ["epoch", "region"] with fields of '
                f"{field.type}, most significant first",
            )


def _least(subject: Subject) -> Iterator[Problem]:
    for field in _with_merge(subject, options_pb2.MERGE_MIN):
        if not (field.repeated or field.is_message or field.proto.proto3_optional):
            yield Problem(
                field.source.at(FIELD, _MERGE),
                f"{field.full_name}: MERGE_MIN cannot tell a {field.type} that nobody set from the "
                "least value",
                f"write `optional {field.type} {field.name} = {field.proto.number}`",
            )


def _map(subject: Subject) -> Iterator[Problem]:
    for field in _with_merge(subject, options_pb2.MERGE_MAP):
        entry = subject.schema.messages.get(field.type)
        if entry is None or not entry.proto.options.map_entry:
            yield Problem(
                field.source.at(FIELD, _MERGE),
                f"{field.full_name}: MERGE_MAP merges a map by key, and this is "
                f"{_described(field)}",
                f"write `map<string, ...> {field.name} = {field.proto.number}`, or another rule",
            )


def _order_by(subject: Subject) -> Iterator[Problem]:
    for field in replicated(subject.schema):
        if field.contract is None or not field.contract.order_by:
            continue
        if field.contract.merge not in _ORDERED or not field.is_message:
            yield Problem(
                field.source.at(FIELD, _ORDER_BY),
                f"{field.full_name}: order_by orders a message under MERGE_MAX or MERGE_MIN",
                "leave order_by out",
            )
            continue
        for path in field.contract.order_by:
            if not _orders(subject.schema, subject.schema.messages.get(field.type), path):
                yield Problem(
                    field.source.at(FIELD, _ORDER_BY),
                    f'{field.full_name}: order_by "{path}" names no field of {field.type} '
                    "with a total order",
                    f"write the name of an integer, string, bytes, bool or enum field of "
                    f"{field.type}",
                )


def _orders(schema: Schema, message: MessageNode | None, path: str) -> bool:
    head, dot, rest = path.partition(".")
    field = message.field(head) if message is not None else None
    if field is None or field.repeated:
        return False
    if dot:
        return field.is_message and _orders(schema, schema.messages.get(field.type), rest)
    return field.proto.type not in _COMPOSITE | _FLOATS


def _message(subject: Subject) -> Iterator[Problem]:
    for field in _with_merge(subject, options_pb2.MERGE_MESSAGE):
        target = subject.schema.messages.get(field.type)
        if field.is_message and not field.repeated and mergeable(target):
            continue
        if target is not None and target.entity is not None:
            remedy = "write a string field with the entity's key instead"
        else:
            remedy = "write MERGE_LATEST, or a message of your own whose fields have rules"
        yield Problem(
            field.source.at(FIELD, _MERGE),
            f"{field.full_name}: MERGE_MESSAGE needs one message whose fields have rules, "
            f"and this is {_described(field)}",
            remedy,
        )


def _recursion(subject: Subject) -> Iterator[Problem]:
    for field in _with_merge(subject, options_pb2.MERGE_MESSAGE):
        inner = inner_message(subject.schema, field)
        if inner is not None and _reaches(subject.schema, inner, field.message.name):
            yield Problem(
                field.source.at(FIELD, _MERGE),
                f"{field.full_name}: {inner.name} contains {field.message.name} again, "
                "so its cells would have no end",
                "write MERGE_LATEST to make it one atomic cell, or refer to it by key",
            )


def _reaches(schema: Schema, start: MessageNode, goal: str) -> bool:
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        message = waiting.pop()
        if message.name == goal:
            return True
        if message.name in seen:
            continue
        seen.add(message.name)
        for field in message.fields:
            inner = inner_message(schema, field)
            if inner is not None:
                waiting.append(inner)
    return False


def _described(field: FieldNode) -> str:
    if field.repeated and field.is_message and field.type.endswith("Entry"):
        return "a map"
    prefix = "repeated " if field.repeated else "optional " if field.proto.proto3_optional else ""
    return f"{prefix}{field.type}"


RULES = (
    Rule("MERGE_COUNTER_TYPE", "A counter is an int64.", _counter),
    Rule("MERGE_BOUND", "A bounded counter has a bound, and nothing else has.", _bound),
    Rule("MERGE_SET_TYPE", "A set is a repeated scalar without floats.", _set),
    Rule("MERGE_ORDER_TYPE", "What is ordered has a total order.", _ordered),
    Rule("MERGE_MIN_UNSET", "What nobody set is not the least value.", _least),
    Rule("MERGE_MAP_TYPE", "What is merged by key is a map.", _map),
    Rule("MERGE_ORDER_BY", "order_by names fields that order a message.", _order_by),
    Rule("MERGE_MESSAGE_TYPE", "A merged message has fields with rules.", _message),
    Rule("MERGE_RECURSION", "A merged message does not contain itself.", _recursion),
)
