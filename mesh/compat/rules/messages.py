"""What is added to messages and enums, and numbers that meant something else."""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf import descriptor_pb2

from mesh.compat.pair import FOREIGN, Pair
from mesh.compat.roles import Role, extensions, is_option
from mesh.compat.rules.rule import Found, Rule
from mesh.compat.verdicts import Verdict
from mesh.contracts.bindings import HTTP
from mesh.contracts.schema import FieldNode

_GATE = {
    Role.PEER: Verdict.GATED,
    Role.STORED: Verdict.GATED,
    Role.REPLICATED: Verdict.GATED,
    Role.POLICY: Verdict.GATED,
}
_FIELD = {Role.REQUEST: Verdict.SERVERS_FIRST, Role.RESPONSE: Verdict.SAFE, **_GATE}
_CHOICE = {Role.REQUEST: Verdict.SERVERS_FIRST, Role.RESPONSE: Verdict.GATED, **_GATE}
_FRESH = "take a number and a name that nothing ever had"
_REMEDY = {
    Verdict.SAFE: "nothing to do: old servers leave it unset",
    Verdict.SERVERS_FIRST: "roll out servers in every region before a caller sends it",
    Verdict.GATED: "write it once every region runs this version",
}


def _field_added(pair: Pair) -> Iterator[Found]:
    for field in pair.added():
        roles = pair.roles(field.message.name)
        if Role.REPLICATED not in roles and Role.POLICY not in roles and not _joins(pair, field):
            yield from _added(pair, field, "the field is new: older versions ignore it")


def _merged_added(pair: Pair) -> Iterator[Found]:
    for field in pair.added():
        if Role.REPLICATED in pair.roles(field.message.name):
            yield from _added(
                pair, field, "the replicated field is new: older regions keep and pass it unread"
            )


def _policy_added(pair: Pair) -> Iterator[Found]:
    for field in pair.added():
        roles = pair.roles(field.message.name)
        if Role.POLICY in roles and Role.REPLICATED not in roles:
            yield from _added(
                pair, field, "the option is new: an older Isthmus refuses contracts that use it"
            )

    known = {(each.extendee, each.number) for each, _ in extensions(pair.old.schema)}
    # Images may leave the definition of a standard option out, as the project's own does.
    known.add((".google.protobuf.MethodOptions", HTTP))
    for each, source in extensions(pair.new.schema):
        if (each.extendee, each.number) in known or source.file.startswith(FOREIGN):
            continue
        extended = each.extendee.lstrip(".")
        verdict = Verdict.GATED if is_option(each) else pair.by_roles(extended, _FIELD)
        if verdict is not None:
            yield Found(
                f"{extended}.{each.name}",
                "the extension is new: older versions do not know what it says",
                verdict,
                _REMEDY[verdict],
                source.at(),
            )


def _member_added(pair: Pair) -> Iterator[Found]:
    for field in pair.added():
        roles = pair.roles(field.message.name)
        if _joins(pair, field) and not roles & {Role.REPLICATED, Role.POLICY}:
            verdict = pair.by_roles(field.message.name, _CHOICE)
            if verdict is not None:
                yield _told(
                    field, f"it is a new choice of {field.oneof}: older versions see none", verdict
                )


def _joins(pair: Pair, field: FieldNode) -> bool:
    """Whether it is added to a oneof that was there."""
    old = pair.old.messages[field.message.name]
    return field.oneof is not None and any(each.oneof == field.oneof for each in old.fields)


def _added(pair: Pair, field: FieldNode, what: str) -> Iterator[Found]:
    if field.proto.label == field.proto.LABEL_REQUIRED:
        remedy = "make it optional: older versions cannot send it"
        yield Found(
            field.full_name,
            "the field is new and required",
            Verdict.BREAKING,
            remedy,
            field.source.at(),
        )
        return
    verdict = pair.by_roles(field.message.name, _FIELD)
    if verdict is not None:
        yield _told(field, what, verdict)


def _told(field: FieldNode, what: str, verdict: Verdict) -> Found:
    return Found(field.full_name, what, verdict, _REMEDY[verdict], field.source.at())


def _value_added(pair: Pair) -> Iterator[Found]:
    for old, new in pair.enums():
        known = {value.proto.number for value in old.values}
        verdict = pair.by_roles(new.name, _CHOICE)
        for value in new.values:
            if value.proto.number not in known and verdict is not None:
                yield Found(
                    value.full_name,
                    "the value is new: older versions do not know what it means",
                    verdict,
                    _REMEDY[verdict],
                    value.source.at(),
                )


def _tag_reused(pair: Pair) -> Iterator[Found]:
    for before, after in pair.messages():
        if not pair.roles(after.name):
            continue
        old = {node.proto.number: node for node in before.fields}
        for field in after.fields:
            number, was = field.proto.number, old.get(field.proto.number)
            taken = any(gone.start <= number < gone.end for gone in before.proto.reserved_range)
            if taken or field.name in before.proto.reserved_name:
                what = f"number {number} or its name is reserved in {pair.old.name}"
            elif was is not None and was.name != field.name and _shape(was) != _shape(field):
                what = f"number {number} is {was.type} {was.name} in {pair.old.name}"
            else:
                continue
            yield Found(
                field.full_name,
                what,
                Verdict.BREAKING,
                "take a number and a name that nothing ever had",
                field.source.at(),
            )
    yield from _enum_tag_reused(pair)


def _enum_tag_reused(pair: Pair) -> Iterator[Found]:
    for before, after in pair.enums():
        if not pair.roles(after.name):
            continue
        numbers = {value.proto.name: value.proto.number for value in before.values}
        for value in after.values:
            name, number = value.proto.name, value.proto.number
            taken = any(gone.start <= number <= gone.end for gone in before.proto.reserved_range)
            taken = taken or name in before.proto.reserved_name
            if taken or numbers.get(name, number) != number:
                yield Found(
                    value.full_name,
                    f"number {number} or its name means something else in {pair.old.name}",
                    Verdict.BREAKING,
                    _FRESH,
                    value.source.at(),
                )


def _shape(field: FieldNode) -> tuple[str, int]:
    return field.type, field.proto.label


def _redaction(pair: Pair) -> Iterator[Found]:
    for old, new in pair.fields():
        was, now = old.proto.options.debug_redact, new.proto.options.debug_redact
        if was != now:
            yield Found(
                new.full_name,
                "its values are shown in logs and taps"
                if was
                else "its values are not shown any more",
                Verdict.SAFE,
                "have who answers for the data approve it by an entry in the waivers"
                if was
                else "nothing to do",
                new.source.at(descriptor_pb2.FieldOptions.DEBUG_REDACT_FIELD_NUMBER),
                approval=was,
            )


RULES = (
    Rule("FIELD_ADDED", "Nobody relies on a field that others ignore.", _field_added),
    Rule("MERGED_FIELD_ADDED", "Every region reads a field before it is written.", _merged_added),
    Rule("POLICY_FIELD_ADDED", "An option that is not known is refused.", _policy_added),
    Rule("ONEOF_MEMBER_ADDED", "Who reads a oneof knows its choices.", _member_added),
    Rule("ENUM_VALUE_ADDED", "Who reads an enum knows its values.", _value_added),
    Rule("TAG_REUSED", "A number means one thing in every version that is kept.", _tag_reused),
    Rule("REDACTION_CHANGED", "What was hidden stays hidden.", _redaction, ("debug_redact",)),
)
