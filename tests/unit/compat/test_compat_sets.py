"""A change is judged against every version that is named, in the direction of its messages."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from mesh.compat import sources
from mesh.compat.gate import Question, check
from mesh.compat.roles import Role, roles
from mesh.compat.uses import Use
from mesh.compat.verdicts import Verdict, worst
from tests.unit.compat.shops import FIXTURES, version

TODAY = date(2027, 1, 1)
AMOUNT = "  int32 amount = 3;\n"
GONE = (AMOUNT, '  reserved "none";\n')
CALLERS = ('["tills", "stock"]', '["tills"]')


def found(source: Path, *against: Path, stored: tuple[Path, ...] = ()) -> dict[str, list[str]]:
    question = Question(source, [*map(str, against)], [*map(str, stored)])
    entries = check(question, TODAY).entries
    return {each.change.rule: list(each.change.against) for each in entries}


def test_a_tag_is_found_again_beyond_the_last_version(tmp_path: Path) -> None:
    first = version(tmp_path / "first")
    second = version(tmp_path / "second", GONE)
    third = version(tmp_path / "third", (AMOUNT, "  string note = 3;\n"))
    assert "TAG_REUSED" not in found(third, second)
    assert found(third, second, first)["TAG_REUSED"] == [str(first)]


def test_what_changed_against_several_is_told_once(tmp_path: Path) -> None:
    first, second = version(tmp_path / "first"), version(tmp_path / "second")
    new = version(tmp_path / "new", CALLERS)
    assert found(new, first, second) == {"CALLER_REMOVED": [str(first), str(second)]}


def test_of_stored_versions_messages_matter_and_calls_do_not(tmp_path: Path) -> None:
    old = version(tmp_path / "old")
    merged = (
        "title = 2 [(isthmus.options.v1.field).merge = MERGE_LATEST",
        "title = 2 [(isthmus.options.v1.field).merge = MERGE_FIRST",
    )
    amount = (AMOUNT, "  string amount = 3;\n")
    new = version(tmp_path / "new", CALLERS, merged, amount)
    assert set(found(new, stored=(old,))) == {"MERGE_CHANGED"}
    assert set(found(new, old)) == {"MERGE_CHANGED", "CALLER_REMOVED", "FIELD_SAME_TYPE"}
    kept = version(tmp_path / "kept", ("string title = 2", "bytes title = 2"))
    assert set(found(kept, stored=(old,))) == {"FIELD_SAME_TYPE"}


def test_roles_are_those_of_the_contract() -> None:
    known = roles(sources.read(FIXTURES / "SCOPE_CHANGED" / "previous").schema)
    assert known["shop.v1.PlaceOrderRequest"] == known["shop.v1.Payment"] == {Role.REQUEST}
    assert known["shop.v1.Outcome"] == {Role.RESPONSE}
    assert known["shop.v1.Order"] == {Role.RESPONSE, Role.STORED, Role.REPLICATED}
    assert Role.POLICY in known["isthmus.options.v1.Retry"]


@pytest.mark.parametrize(
    ("change", "subject", "verdict"),
    [
        # The same edit, of a message that peers pass to one another.
        ('callers: {workloads: "tills"}\n      timeout', "PlaceOrderRequest.dry_run", "gated"),
        ("", "PlaceOrderRequest.dry_run", "servers first"),
    ],
)
def test_peers_have_no_order(change: str, subject: str, verdict: str, tmp_path: Path) -> None:
    peers = [(change, change.replace('"tills"', '"orders"'))] if change else []
    old = version(tmp_path / "old", *peers)
    new = version(tmp_path / "new", *peers, (AMOUNT, AMOUNT + "  bool dry_run = 7;\n"))
    (entry,) = check(Question(new, [str(old)]), TODAY).entries
    assert (entry.change.subject, entry.change.verdict.value) == (f"shop.v1.{subject}", verdict)


def test_an_unreached_message_may_be_anything(tmp_path: Path) -> None:
    lone = ("message PayRequest {}", "message PayRequest {}\nmessage Lone {\n  int32 a = 1;\n}")
    more = (lone[0], lone[1].replace("a = 1;", "a = 1;\n  int32 b = 2;"))
    old, new = version(tmp_path / "old", lone), version(tmp_path / "new", more)
    (entry,) = check(Question(new, [str(old)]), TODAY).entries
    assert entry.change.verdict is Verdict.GATED


def test_new_extensions_are_told(tmp_path: Path) -> None:
    head = (
        "package shop.v1;",
        'package shop.v1;\nimport "google/protobuf/descriptor.proto";\n'
        "extend google.protobuf.MethodOptions {\n  bool audited = 60001;\n}",
    )
    old, new = version(tmp_path / "old"), version(tmp_path / "new", head)
    (entry,) = check(Question(new, [str(old)]), TODAY).entries
    assert (entry.change.rule, entry.change.verdict) == ("POLICY_FIELD_ADDED", Verdict.GATED)
    assert entry.change.location.line == 1 + (new / "shop.proto").read_text()[
        : (new / "shop.proto").read_text().index("bool audited")
    ].count("\n")


class Counted:
    """What sidecars counted."""

    def __init__(self, *uses: Use) -> None:
        self._uses = uses

    def of(self, method: str, caller: str) -> tuple[Use, ...] | None:
        assert (method, caller) == ("shop.v1.OrderService/GetOrder", "stock")
        return self._uses


def test_who_calls_decides_whether_a_caller_may_go(tmp_path: Path) -> None:
    old, new = version(tmp_path / "old"), version(tmp_path / "new", CALLERS)
    question = Question(new, [str(old)])
    (unknown,) = check(question, TODAY).entries
    assert unknown.change.verdict is Verdict.BREAKING
    assert "is not known" in unknown.change.what
    (called,) = check(question, TODAY, Counted(Use("stock", "eu", "2026-12-24"))).entries
    assert called.change.verdict is Verdict.BREAKING
    assert "called last by stock in eu at 2026-12-24" in called.change.what
    (unused,) = check(question, TODAY, Counted()).entries
    assert unused.change.verdict is Verdict.CALLERS_FIRST


def test_two_orders_are_none() -> None:
    assert worst([Verdict.CALLERS_FIRST, Verdict.SERVERS_FIRST]) is Verdict.BREAKING
    assert worst([Verdict.SAFE, Verdict.CALLERS_FIRST]) is Verdict.CALLERS_FIRST
    assert worst([Verdict.GATED, Verdict.CALLERS_FIRST]) is Verdict.GATED
    assert worst([]) is Verdict.SAFE


@pytest.mark.parametrize("stop_at", ["ordered", "gated", "breaking"])
def test_what_stops_is_asked_for(stop_at: str, tmp_path: Path) -> None:
    old = version(tmp_path / "old")
    new = version(tmp_path / "new", ("OUTCOME_TAKEN = 1;", "OUTCOME_TAKEN = 1;\n  OUTCOME_B = 2;"))
    report = check(Question(new, [str(old)], stop_at=stop_at), TODAY)
    assert report.verdict is Verdict.GATED
    assert report.passes is (stop_at == "breaking")
