"""Waivers let one change pass until a day, and are wrong loudly."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from mesh.compat.errors import GateError
from mesh.compat.gate import Question, check
from mesh.compat.report import Report
from mesh.compat.waivers import read
from tests.unit.compat.shops import version

WAIVER = """\
waivers:
  - rule: CALLER_REMOVED
    place: shop.v1.OrderService/GetOrder
    owner: sales
    reason: stock reads the feed since spring
    expires: 2027-01-31
"""


def answered(folder: Path, text: str, today: date = date(2027, 1, 31)) -> Report:
    old = version(folder / "old")
    new = version(folder / "new", ('["tills", "stock"]', '["tills"]'))
    file = folder / "waivers.yaml"
    file.write_text(text)
    return check(Question(new, [str(old)], waivers=file), today)


def test_a_waiver_holds_until_its_day(tmp_path: Path) -> None:
    report = answered(tmp_path, WAIVER)
    assert report.passes and not report.expired and not report.unused
    (entry,) = report.entries
    assert entry.waiver is not None and entry.waiver.owner == "sales" and entry.waiver.line == 2


def test_after_it_the_change_and_the_waiver_stop(tmp_path: Path) -> None:
    report = answered(tmp_path, WAIVER, date(2027, 2, 1))
    assert not report.passes and len(report.expired) == 1
    assert [entry.stops for entry in report.entries] == [True]


def test_one_that_expired_stops_though_nothing_needs_it(tmp_path: Path) -> None:
    old = version(tmp_path / "old")
    (tmp_path / "w.yaml").write_text(WAIVER)
    question = Question(old, [str(old)], waivers=tmp_path / "w.yaml")
    assert not check(question, date(2027, 2, 1)).passes
    early = check(question, date(2027, 1, 1))
    assert early.passes and len(early.unused) == 1


def test_it_waives_one_rule_at_one_place(tmp_path: Path) -> None:
    other = WAIVER.replace("GetOrder", "PlaceOrder")
    report = answered(tmp_path, other)
    assert not report.passes and len(report.unused) == 1


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("CALLER_REMOVED", "CALLERS_GONE", "there is no rule CALLERS_GONE"),
        ("2027-01-31", "soon", '"soon" is no day'),
        ("    owner: sales\n", "", "a waiver has rule, place, owner"),
        ("owner: sales", 'owner: " "', "a waiver has rule, place, owner"),
        ("owner: sales", "owner: sales\n    until: x", "a waiver has rule, place, owner"),
        ("waivers:", "waiver:", "write `waivers:`"),
        ("waivers:", "waivers: {", "is no YAML"),
    ],
)
def test_a_wrong_file_is_an_error(old: str, new: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "w.yaml"
    file.write_text(WAIVER.replace(old, new))
    with pytest.raises(GateError) as error:
        read(file, {"CALLER_REMOVED"})
    assert said in str(error.value) and str(file) in str(error.value)


def test_one_change_is_waived_once(tmp_path: Path) -> None:
    file = tmp_path / "w.yaml"
    file.write_text(WAIVER + WAIVER.partition("\n")[2])
    with pytest.raises(GateError, match="is waived twice"):
        read(file, {"CALLER_REMOVED"})
