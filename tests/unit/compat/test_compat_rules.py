"""Each rule finds what its fixtures show, at that line, and nothing else; no option is left out."""

from __future__ import annotations

import json
from collections import Counter
from datetime import date
from functools import cache
from pathlib import Path

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from isthmus.options.v1 import options_pb2

from mesh.compat import sources
from mesh.compat.engine import compare
from mesh.compat.gate import Question, check
from mesh.compat.pages import main as pages
from mesh.compat.pair import Pair, Side
from mesh.compat.rules import RULES
from mesh.contracts.support import STANDARD
from mesh.contracts.table import declared

FIXTURES = Path(__file__).parents[2] / "compat"
CASES = sorted(path.parent.name for path in FIXTURES.glob("*/expected.json"))
OPTIONS = ("ServiceContract", "MethodContract", "Callers", "Retry", "RateLimit")
OPTIONS += ("EntityContract", "FieldContract")


@pytest.mark.parametrize("rule", CASES)
def test_its_fixtures_show_it(rule: str) -> None:
    folder = FIXTURES / rule
    report = check(Question(folder / "current", [str(folder / "previous")]), date(2027, 1, 1))
    found = [
        {
            "rule": entry.change.rule,
            "subject": entry.change.subject,
            "verdict": entry.change.verdict.value,
            "approval": entry.change.approval,
            "at": str(entry.change.location),
        }
        for entry in report.entries
    ]
    assert found == json.loads((folder / "expected.json").read_text())
    assert rule in {each["rule"] for each in found}
    stopped = any(each["verdict"] == "breaking" or each["approval"] for each in found)
    assert report.passes is not stopped


@pytest.mark.parametrize("rule", CASES)
def test_nothing_is_found_where_nothing_changed(rule: str) -> None:
    current = FIXTURES / rule / "current"
    assert not check(Question(current, [str(current)]), date(2027, 1, 1)).entries


def test_each_rule_has_fixtures_and_its_name_once() -> None:
    assert {rule.id for rule in RULES} <= set(CASES)
    assert len({rule.id for rule in RULES}) == len(RULES)


def test_each_option_belongs_to_one_rule() -> None:
    fields = {f"{owner}.{name}" for owner, names in declared() for name in names}
    fields = {name for name in fields if name.partition(".")[0] in OPTIONS}
    owned = Counter(option for rule in RULES for option in rule.options)
    assert set(owned) == fields | set(STANDARD)
    assert set(owned.values()) == {1}


def test_the_messages_of_options_are_all_there() -> None:
    file = options_pb2.DESCRIPTOR
    assert set(file.message_types_by_name) == set(OPTIONS)


@cache
def base() -> Side:
    return sources.read(FIXTURES / "OWNER_CHANGED" / "previous")


@pytest.mark.parametrize(
    "option",
    [option for rule in RULES for option in rule.options if option.partition(".")[0] in OPTIONS],
)
def test_a_change_of_any_option_is_found_by_its_rule(option: str) -> None:
    owner, _, name = option.partition(".")
    side = Side("new", base().image)
    values = [
        value
        for holder in (
            *(service.contract for service in side.schema.services.values()),
            *(method.contract for method in side.schema.methods()),
            *(message.entity for message in side.schema.messages.values() if message.entity),
            *(
                node.contract
                for m in side.schema.messages.values()
                for node in m.fields
                if node.contract
            ),
        )
        for value in (holder, *_inner(holder))
        if value.DESCRIPTOR.name == owner
    ]
    _alter(values[0], values[0].DESCRIPTOR.fields_by_name[name])
    (rule,) = (rule.id for rule in RULES if option in rule.options)
    # To give access is another rule's than to take it.
    expected = {rule, "CALLER_ADDED"} if owner == "Callers" else {rule}
    assert expected & {found.rule for found in compare(Pair(base(), side))}


def _inner(holder: Message) -> list[Message]:
    return [
        value
        for field, value in holder.ListFields()
        if field.type == FieldDescriptor.TYPE_MESSAGE and not field.is_repeated
    ]


def _alter(value: Message, field: FieldDescriptor) -> None:
    if field.is_repeated:
        getattr(value, field.name).append(2 if field.enum_type else "other")
    elif field.message_type is not None:
        was = value.HasField(field.name)
        value.ClearField(field.name)
        if not was:
            getattr(value, field.name).SetInParent()
    elif field.enum_type is not None:
        last = max(field.enum_type.values_by_number)
        setattr(value, field.name, 1 if getattr(value, field.name) == last else last)
    elif field.type == FieldDescriptor.TYPE_BOOL:
        setattr(value, field.name, not getattr(value, field.name))
    elif field.type == FieldDescriptor.TYPE_STRING:
        setattr(value, field.name, "title" if field.name == "home_field" else "other")
    else:
        setattr(value, field.name, getattr(value, field.name) + 1)


def test_the_pages_are_up_to_date() -> None:
    assert pages(["--check"]) == 0
