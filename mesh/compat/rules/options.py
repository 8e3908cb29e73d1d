"""Values, JSON forms, and all options that no other rule answers for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from mesh.compat.pair import FOREIGN, Pair, Side
from mesh.compat.roles import Role
from mesh.compat.rules.rule import Found, Rule
from mesh.compat.verdicts import Verdict
from mesh.contracts.bindings import HTTP
from mesh.contracts.option_uses import holders
from mesh.contracts.schema import ENTITY, FIELD, IDEMPOTENCY_LEVEL, METHOD, SERVICE, Source

VALIDATE = 1159
"""The number of `buf.validate`'s options."""

# What other rules judge, by the kind of options.
_JUDGED = {
    "MethodOptions": {METHOD, HTTP, IDEMPOTENCY_LEVEL},
    "ServiceOptions": {SERVICE},
    "MessageOptions": {ENTITY, VALIDATE},
    "FieldOptions": {FIELD, VALIDATE, 16},  # 16: debug_redact
    "OneofOptions": {VALIDATE},
}
# `deprecated` says something to people; all options of files are judged by buf.
_HARMLESS = {
    "MethodOptions": {33},
    "ServiceOptions": {33},
    "MessageOptions": {3},
    "FieldOptions": {3},
    "EnumOptions": {3},
    "EnumValueOptions": {1},
}

_Held = dict[str, tuple[dict[int, bytes], str, Source]]


def _validation(pair: Pair) -> Iterator[Found]:
    old, new = _held(pair.old), _held(pair.new)
    for name, (options, kind, source) in new.items():
        owner = name.rpartition(".")[0] if kind != "MessageOptions" else name
        was, now = old.get(name, ({}, "", source))[0].get(VALIDATE), options.get(VALIDATE)
        existed = name in old or owner in pair.old.messages
        if was == now or not existed or kind == "MethodOptions":
            continue
        if not pair.roles(owner) & {Role.REQUEST, Role.PEER}:
            continue
        if was is None:
            verdict, what = Verdict.CALLERS_FIRST, "its values are checked: others are refused"
            remedy = "have callers send such values alone first"
        elif now is None:
            verdict, what = Verdict.SERVERS_FIRST, "its values are not checked any more"
            remedy = "have servers in every region take any value first"
        else:
            verdict, what = Verdict.BREAKING, "its values are checked in another way"
            remedy = "add a field, or waive it once it is shown which values are affected"
        yield Found(name, what, verdict, remedy, source.at(VALIDATE))


def _http(pair: Pair) -> Iterator[Found]:
    for old, new in pair.methods():
        was, now = set(old.http), set(new.http)
        name = new.path[1:]
        for binding in sorted(was - now, key=str):
            yield Found(
                name,
                f"{binding.verb} {binding.path} is gone, and who calls it is not known",
                Verdict.BREAKING,
                "keep it as one of additional_bindings",
                new.at("google.api.http"),
            )
        for binding in sorted(now - was, key=str):
            yield Found(
                name,
                f"{binding.verb} {binding.path} is new",
                Verdict.SERVERS_FIRST,
                "roll out every region before it is called",
                new.at("google.api.http"),
            )
        if was == now and old.http != new.http:
            yield Found(
                name,
                "its JSON forms have another order",
                Verdict.BREAKING,
                "keep their order: the first that fits is taken",
                new.at("google.api.http"),
            )


def _unclassified(pair: Pair) -> Iterator[Found]:
    old, new = _held(pair.old), _held(pair.new)
    for name, (options, kind, source) in new.items():
        if name not in old or kind == "FileOptions":
            continue
        known = _JUDGED.get(kind, set()) | _HARMLESS.get(kind, set())
        before = old[name][0]
        for number in sorted((before.keys() | options.keys()) - known):
            if before.get(number) != options.get(number):
                yield Found(
                    name,
                    f"option {number} of {kind} changed, and no rule says what that does",
                    Verdict.BREAKING,
                    "keep it, or waive it once it is known what it does",
                    source.at(number),
                )


def _held(side: Side) -> _Held:
    """For each declaration its options: by number, as bytes; their kind; and where it stands."""
    return {
        name: (_values(options), options.DESCRIPTOR.name, source)
        for name, options, source in holders(side.schema)
        if not source.file.startswith(FOREIGN)
    }


def _values(options: Message) -> dict[int, bytes]:
    found = {
        field.number: value.SerializeToString(deterministic=True)
        if isinstance(value, Message)
        else repr(value).encode()
        for field, value in options.ListFields()
    }
    unknown: Any = UnknownFieldSet(options)
    for each in unknown:
        data = each.data if isinstance(each.data, bytes) else repr(each.data).encode()
        found[each.field_number] = found.get(each.field_number, b"") + data
    return found


RULES = (
    Rule(
        "VALIDATION_CHANGED",
        "What callers send is taken.",
        _validation,
        ("buf.validate",),
        calls=True,
    ),
    Rule("HTTP_CHANGED", "Who calls by JSON goes on to.", _http, ("google.api.http",), calls=True),
    Rule(
        "OPTION_UNCLASSIFIED", "An option that no rule knows never changes unseen.", _unclassified
    ),
)
