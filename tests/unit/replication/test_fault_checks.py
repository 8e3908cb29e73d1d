"""Each check of the fault runs finds a made-up history that breaks it, and passes a good one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.faults.history import ACKNOWLEDGED, REFUSED, UNKNOWN, Attempt, Fault, History, State
from tests.faults.runs import judge

EMPTY: State = {
    "generation": 1,
    "deleted": False,
    "latest": "",
    "first": "",
    "most": 0,
    "least": None,
    "count": 0,
    "stock": 0,
    "labels": [],
    "tags": {},
    "note": [],
}
NEVER: State = {"generation": 0, "deleted": True, "next": 1}


class Made:
    """A history in the making; one attempt a second, each in a session of its own."""

    def __init__(self) -> None:
        self.history = History(["r1", "r2"])
        self.write("begin", ["create", "k", {}], saw=NEVER)

    def write(
        self, uid: str, *operations: list[Any], saw: State | None = None, **more: Any
    ) -> Attempt:
        """An attempt that was acknowledged, unless `more` says otherwise."""
        keys = {operation[1] for operation in operations}
        before = EMPTY if saw is None else saw
        told: dict[str, Any] = {"request": uid, "by": uid, "outcome": ACKNOWLEDGED}
        told["saw"] = dict.fromkeys(keys, before)
        return self._add(uid, write=[list(o) for o in operations], **(told | more))

    def lost(self, uid: str, *operations: list[Any], **more: Any) -> Attempt:
        """An attempt without an answer, while its region was killed."""
        self.fault("kill", "r1")
        return self.write(uid, *operations, **{"outcome": UNKNOWN, "by": "", "saw": {}} | more)

    def read(self, uid: str, session: str, region: str = "r1", **read: State) -> Attempt:
        return self._add(uid, session=session, region=region, read=read, outcome=ACKNOWLEDGED)

    def _add(self, uid: str, **more: Any) -> Attempt:
        now = float(len(self.history.attempts))
        told = {"request": "", "session": uid, "region": "r1", "end": now + 0.5} | more
        self.history.attempts.append(Attempt(uid=uid, start=now, **told))
        return self.history.attempts[-1]

    def fault(self, kind: str, *targets: str, **more: Any) -> None:
        now = float(len(self.history.attempts))
        self.history.faults.append(Fault(kind, list(targets), now, now + 0.6, **more))

    def ends(self, **fields: Any) -> dict[str, list[str]]:
        """What is wrong if all regions end with such a `k`."""
        things = {"k": EMPTY | fields if "generation" not in fields else fields}
        for region in self.history.regions:
            self.history.final[region] = {"vector": [], "digest": "", "bytes": "", "things": things}
        return {name: found for name, found in judge(self.history).items() if found}


@pytest.fixture
def made() -> Made:
    return Made()


def test_a_good_history_is_good(made: Made) -> None:
    made.write("a", ["set", "k", "latest", "a"], ["add", "k", "a"], ["increment", "k", "count", 2])
    made.lost("b", ["increment", "k", "count", 3], ["set", "k", "note", "b"])
    made.write(
        "c", ["set", "k", "latest", "c"], ["remove", "k", "a"], saw=EMPTY | {"labels": ["a"]}
    )
    made.write("d", ["increment", "k", "count", 9], outcome=REFUSED, error="NotFound", by="")
    assert made.ends(latest="c", count=5, note=["b"]) == {}
    assert made.ends(latest="c", count=2) == {}


def test_regions_that_differ(made: Made) -> None:
    made.ends()
    made.history.final["r2"] = made.history.final["r1"] | {"bytes": "other"}
    assert judge(made.history)["regions are equal"]


def change(*operations: list[Any], saw: State | None = None) -> Callable[[Made], Any]:
    return lambda made: made.write("a", *operations, saw=saw)


BROKEN: dict[str, tuple[str, Callable[[Made], Any], State]] = {
    "a lost entity": ("lives and deletes", change(), NEVER),
    "a lost delete": ("lives and deletes", change(["delete", "k"]), {}),
    "a delete by nobody": ("lives and deletes", change(), {"generation": 1, "deleted": True}),
    "a life that nobody began": (
        "lives and deletes",
        change(["delete", "k"]),
        EMPTY | {"generation": 2},
    ),
    "a lost value": ("LATEST FIRST MAX MIN", change(["set", "k", "latest", "a"]), {}),
    "a value by nobody": ("LATEST FIRST MAX MIN", change(), {"latest": "x"}),
    "a lost first": ("LATEST FIRST MAX MIN", change(["set", "k", "first", "a"]), {}),
    "a second first": (
        "LATEST FIRST MAX MIN",
        change(["set", "k", "first", "a"], saw=EMPTY | {"first": "x"}),
        {"first": "a"},
    ),
    "a lost maximum": ("LATEST FIRST MAX MIN", change(["set", "k", "most", 5]), {"most": 4}),
    "a lost minimum": ("LATEST FIRST MAX MIN", change(["set", "k", "least", 5]), {}),
    "an increment lost": ("COUNTER BOUNDED_COUNTER", change(["increment", "k", "count", 2]), {}),
    "an increment twice": (
        "COUNTER BOUNDED_COUNTER",
        change(["increment", "k", "count", 2]),
        {"count": 4},
    ),
    "a label lost": ("SET", change(["add", "k", "a"]), {}),
    "a label by nobody": ("SET", change(), {"labels": ["x"]}),
    "a tag lost": ("MAP", change(["put", "k", "a", "a"]), {}),
    "a tag by nobody": ("MAP", change(), {"tags": {"a": "x"}}),
    "a note lost": ("KEEP_BOTH", change(["set", "k", "note", "a"]), {}),
    "a note by nobody": ("KEEP_BOTH", change(), {"note": ["x"]}),
}


@pytest.mark.parametrize("name", BROKEN)
def test_an_end_that_cannot_be(made: Made, name: str) -> None:
    check, do, fields = BROKEN[name]
    do(made)
    assert check in made.ends(**fields)


AGAIN: dict[str, tuple[str, list[Any], list[Any], State]] = {
    "an overwritten value": (
        "LATEST FIRST MAX MIN",
        ["set", "k", "latest", "a"],
        ["set", "k", "latest", "b"],
        {"latest": "a"},
    ),
    "a removed label": ("SET", ["add", "k", "a"], ["remove", "k", "a"], {"labels": ["a"]}),
    "a dropped tag": ("MAP", ["put", "k", "a", "x"], ["drop", "k", "a"], {"tags": {"a": "x"}}),
    "a resolved note": (
        "KEEP_BOTH",
        ["set", "k", "note", "a"],
        ["set", "k", "note", "b"],
        {"note": ["a"]},
    ),
}


@pytest.mark.parametrize("name", AGAIN)
def test_what_was_seen_and_replaced_comes_back(made: Made, name: str) -> None:
    check, first, second, fields = AGAIN[name]
    made.write("a", first)
    made.write("b", second, saw=EMPTY | fields)
    assert check in made.ends(**fields)


def test_labels_of_a_former_life(made: Made) -> None:
    made.write("a", ["add", "k", "a"])
    made.write("b", ["delete", "k"])
    made.write("c", ["create", "k", {}], saw={"generation": 1, "deleted": True, "next": 2})
    assert made.ends(generation=2, **{k: v for k, v in EMPTY.items() if k != "generation"}) == {}
    ended = EMPTY | {"generation": 2, "labels": ["a"], "count": 1}
    assert {"SET", "COUNTER BOUNDED_COUNTER"} <= made.ends(**ended).keys()


def test_a_stock_below_its_bound(made: Made) -> None:
    made.read("a", "s", k=EMPTY | {"stock": -1})
    assert "bounds at every read" in made.ends()


def test_half_of_what_was_written_together(made: Made) -> None:
    pair = {"left-1": EMPTY | {"latest": "a"}, "right-1": EMPTY | {"latest": "b"}}
    made.read("r", "s", **pair)
    assert "written together, seen together" in made.ends()


def test_a_value_that_was_refused(made: Made) -> None:
    made.write("a", ["set", "k", "latest", "a"], outcome=REFUSED, error="NotFound", by="")
    made.read("b", "s", k=EMPTY | {"latest": "a"})
    assert "nothing made up" in made.ends()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (EMPTY | {"count": 2}, EMPTY | {"count": 1}),
        (EMPTY | {"most": 2}, EMPTY | {"most": 1}),
        (EMPTY | {"least": 2}, EMPTY | {"least": 3}),
        (EMPTY | {"latest": "a"}, EMPTY),
        (EMPTY | {"labels": ["a"]}, EMPTY),
        ({"generation": 1, "deleted": True}, EMPTY),
        (EMPTY, NEVER),
    ],
)
def test_a_session_that_goes_back(made: Made, before: State, after: State) -> None:
    made.read("a", "s", k=before)
    made.read("b", "s", "r2", k=after)
    assert "sessions" in made.ends()


def test_a_session_that_does_not_read_its_write(made: Made) -> None:
    made.write("a", ["add", "k", "a"], session="s")
    made.read("b", "s", "r2", k=EMPTY)
    assert "sessions" in made.ends(labels=["a"])


REPEAT: dict[str, Any] = {"request": "a", "repeated": True}


@pytest.mark.parametrize("region", ["r1", "r2"])
def test_a_request_that_is_done_twice(made: Made, region: str) -> None:
    made.write("a", ["increment", "k", "count", 1])
    made.write("b", ["increment", "k", "count", 1], region=region, **REPEAT)
    assert "one effect per request" in made.ends(count=2)


def test_a_request_that_was_done_and_is_tried_again(made: Made) -> None:
    made.write("a", ["create", "k2", {}], saw=NEVER)
    made.write("b", ["create", "k2", {}], outcome=REFUSED, error="AlreadyExists", by="", **REPEAT)
    assert "one effect per request" in made.ends()


def test_a_repeat_that_is_told_of_another_request(made: Made) -> None:
    made.write("a", ["increment", "k", "count", 1])
    made.write("b", ["increment", "k", "count", 1], request="c", by="a")
    assert "one effect per request" in made.ends(count=1)


def test_a_repeat_of_what_went_with_a_disk(made: Made) -> None:
    made.write("a", ["increment", "k", "count", 1], position=["r1", 1, 5])
    made.fault("disk", "r1", vectors={"r2": [["r1", 1, 4]]})
    made.write("b", ["increment", "k", "count", 1], region="r2", **REPEAT)
    assert made.ends(count=1) == {}


def test_a_repeat_of_what_changed_nothing(made: Made) -> None:
    made.write("a", ["remove", "k", "x"], position=["r1", 1, 4])
    made.fault("disk", "r1", vectors={"r2": [["r1", 1, 4]]})
    made.write("b", ["remove", "k", "x"], region="r2", **REPEAT)
    assert made.ends() == {}
    made.write("c", ["remove", "k", "y"])
    made.write("d", ["remove", "k", "y"], region="r2", request="c", repeated=True)
    assert "one effect per request" in made.ends()


def test_a_repeat_without_an_answer_is_done_once(made: Made) -> None:
    made.lost("a", ["increment", "k", "count", 1])
    made.write("b", ["increment", "k", "count", 1], region="r2", **REPEAT)
    assert made.ends(count=1) == {}
    assert "COUNTER BOUNDED_COUNTER" in made.ends(count=2)


def test_a_region_that_does_not_answer(made: Made) -> None:
    made.write("a", ["delete", "k"], outcome=UNKNOWN, by="", saw={})
    assert "available while it runs" in made.ends()


def test_a_region_that_refuses_without_need(made: Made) -> None:
    made.write("a", ["delete", "k"], outcome=REFUSED, error="WriteNotStored", by="")
    assert "available while it runs" in made.ends()


def test_in_health_every_operation_is_known(made: Made) -> None:
    made.write("a", ["delete", "k"], outcome=REFUSED, error="OperationUnknown", by="", saw={})
    assert "available while it runs" in made.ends()


def test_a_lost_disk_may_take_what_it_alone_had(made: Made) -> None:
    made.write("a", ["add", "k", "a"], position=["r1", 1, 5])
    made.fault("disk", "r1", vectors={"r2": [["r1", 1, 4]]})
    assert made.ends() == {}
    assert made.ends(labels=["a"]) == {}


@pytest.mark.parametrize("more", [{}, {"durability": "ONE_PEER"}])
def test_a_lost_disk_does_not_excuse_what_others_had(made: Made, more: dict[str, Any]) -> None:
    made.write("a", ["add", "k", "a"], position=["r1", 1, 5], **more)
    made.fault("disk", "r1", vectors={"r2": [["r1", 1, 4 if more else 5]]})
    assert "SET" in made.ends()
