"""A deploy's way through its stages, with time to wind."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.control.rollout import (
    ILL_FOR,
    SILENT_FOR,
    Count,
    Deployment,
    Gates,
    Seen,
    Step,
    stages,
)
from mesh.xds.fleet import Instance

EVERYBODY = [Instance(r, w) for r in ("eu", "us") for w in ("channels", "devices", "edge")]
CHANNELS, DEVICES = Instance("eu", "channels"), Instance("eu", "devices")
AFAR = Instance("us", "devices")
GATES = Gates(window=10, acknowledged_within=20, more_failures=0.02, few_failures=3)
PATH = "/a.v1.A/Get"


def seen(**changes: object) -> dict[Instance, Seen]:
    """All sidecars on the old revision, or with these changes."""
    usual = Seen(True, "old", "old", counting_since=1, counts={PATH: Count(1000, 10)})
    usual = replace(usual, healthy={"devices/nearest": 3})
    return dict.fromkeys(EVERYBODY, replace(usual, **changes))  # type: ignore[arg-type]  # names are Seen's


def having(stage: frozenset[Instance]) -> dict[Instance, Seen]:
    return {
        each: replace(found, revision="new", acknowledged="new") if each in stage else found
        for each, found in seen().items()
    }


def deployment(gates: Gates = GATES) -> Deployment:
    made = Deployment("new", stages([DEVICES, AFAR], EVERYBODY), gates)
    made.note(seen(counts={PATH: Count(0, 0)}))
    made.note(seen())
    return made


def fault(step: Step) -> str:
    assert step.fault is not None
    return step.fault.reason


def test_one_sidecar_then_its_region_then_the_rest() -> None:
    names = [stage.name for stage in stages([AFAR, DEVICES], EVERYBODY)]
    assert names == ["eu/devices", "eu", "the rest"]
    assert stages([Instance("eu", "edge"), AFAR], EVERYBODY)[0].instances == {AFAR}
    assert stages([AFAR], EVERYBODY, CHANNELS)[0].name == "eu/channels"
    assert [s.name for s in stages([AFAR], [AFAR])] == ["us/devices"]


def test_a_good_revision_passes_each_stage_and_its_window() -> None:
    made, now, names = deployment(), 0.0, []
    while True:
        step = made.step(now, having(made.stage.instances))
        assert step.fault is None
        if step.done:
            break
        if step.stage.name not in names:
            names.append(step.stage.name)
        now += 1
    assert names == ["eu/devices", "eu", "the rest"]
    assert now >= 3 * GATES.window


def test_nothing_goes_on_before_all_of_a_stage_have_it() -> None:
    made = deployment()
    for now in range(19):
        step = made.step(float(now), seen())
        assert (step.stage.name, step.watching, step.fault) == ("eu/devices", False, None)
    assert fault(made.step(20.0, seen())) == "eu/devices did not acknowledge it within 20 s"


def test_a_rejection_ends_it_at_once() -> None:
    made = deployment()
    rejecting = seen() | {
        DEVICES: replace(seen()[DEVICES], revision="new", rejection="no such cluster")
    }
    step = made.step(0.0, rejecting)
    assert fault(step) == "eu/devices rejects it: no such cluster"
    assert step.fault is not None and step.fault.instance == DEVICES


def test_failures_count_wherever_they_are_seen() -> None:
    made = deployment()
    stage = made.stage.instances
    made.step(0.0, having(stage))
    worse = having(stage)
    worse[CHANNELS] = replace(worse[CHANNELS], counts={PATH: Count(1100, 18)})
    found = made.step(1.0, worse).fault
    assert found is not None and (found.instance, found.method) == (CHANNELS, PATH)
    assert found.reason == (
        "8 of 100 calls failed at eu/channels, 8 of them a.v1.A/Get (before: 1.0 %)"
    )


@pytest.mark.parametrize(("calls", "failures"), [(100, 3), (100, 5), (1000, 25)])
def test_a_few_failures_or_as_many_as_before_are_no_reason(calls: int, failures: int) -> None:
    made = deployment()
    stage = made.stage.instances
    made.step(0.0, having(stage))
    worse = having(stage)
    worse[CHANNELS] = replace(worse[CHANNELS], counts={PATH: Count(1000 + calls, 10 + failures)})
    assert made.step(1.0, worse).fault is None


@pytest.mark.parametrize(("calls", "failures", "well"), [(6, 4, True), (40, 38, False)])
def test_what_fails_half_of_the_time_may_fail_more_by_chance(
    calls: int, failures: int, well: bool
) -> None:
    """As links do to a region that is down."""
    made = Deployment("new", stages([DEVICES, AFAR], EVERYBODY), GATES)
    made.note(seen(counts={PATH: Count(0, 0)}))
    made.note(seen(counts={PATH: Count(20, 10)}))
    stage = made.stage.instances
    usual = {
        each: replace(found, counts={PATH: Count(20, 10)}) for each, found in having(stage).items()
    }
    made.step(0.0, usual)
    worse = usual | {
        CHANNELS: replace(usual[CHANNELS], counts={PATH: Count(20 + calls, 10 + failures)})
    }
    assert (made.step(1.0, worse).fault is None) is well


def test_a_count_that_begins_anew_is_not_compared() -> None:
    made = deployment()
    stage = made.stage.instances
    made.step(0.0, having(stage))
    anew = having(stage)
    anew[CHANNELS] = replace(anew[CHANNELS], counting_since=2, counts={PATH: Count(50, 50)})
    assert made.step(1.0, anew).fault is None
    anew[CHANNELS] = replace(anew[CHANNELS], counts={PATH: Count(60, 60)})
    assert "10 of 10 calls failed" in fault(made.step(2.0, anew))


def test_an_upstream_may_be_gone_for_a_moment_only() -> None:
    made = deployment()
    stage = made.stage.instances
    ill = having(stage)
    ill[CHANNELS] = replace(ill[CHANNELS], healthy={"devices/nearest": 2})
    assert made.step(0.0, ill).fault is None
    assert made.step(1.0, having(stage)).fault is None
    assert made.step(2.0, ill).fault is None
    assert made.step(2.0 + ILL_FOR - 0.1, ill).fault is None
    found = made.step(2.0 + ILL_FOR, ill)
    assert fault(found) == "eu/channels has 2 healthy instances of devices/nearest, 3 before"


def test_who_falls_silent_is_not_taken_for_well() -> None:
    made = deployment()
    stage = made.stage.instances
    made.step(0.0, having(stage))
    silent = having(stage)
    silent[DEVICES] = replace(silent[DEVICES], heard=SILENT_FOR + 1)
    assert fault(made.step(1.0, silent)) == "nothing is heard of eu/devices any more"
    gone = having(stage)
    del gone[DEVICES]
    assert fault(deployment().step(0.0, gone)) == "nothing is heard of eu/devices any more"


_SEEN = st.builds(
    Seen,
    connected=st.booleans(),
    revision=st.sampled_from(["old", "new"]),
    acknowledged=st.sampled_from(["old", "new"]),
    rejection=st.sampled_from(["", "", "", "no"]),
    heard=st.sampled_from([0.0, 0.0, 9.0]),
    counting_since=st.just(1),
    counts=st.builds(lambda c, f: {PATH: Count(1000 + c, 10 + f)}, st.integers(0, 50), st.just(0)),
    healthy=st.sampled_from([{"devices/nearest": 3}, {"devices/nearest": 2}]),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.fixed_dictionaries(dict.fromkeys(EVERYBODY, _SEEN)), max_size=60))
def test_a_stage_is_left_only_after_all_of_it_were_well(steps: list[dict[Instance, Seen]]) -> None:
    made = deployment(Gates(window=2, acknowledged_within=20))
    held: dict[str, list[bool]] = {}
    for now, each in enumerate(steps):
        stage = made.stage
        found = made.step(float(now), each)
        well = all(
            each[i].acknowledged == "new" and not (each[i].rejection and each[i].revision == "new")
            for i in stage.instances
        )
        held.setdefault(stage.name, []).append(well)
        if found.fault is not None:
            return
        if found.done or found.stage != stage:
            # It was had by all at some step of this stage, at least the window before.
            assert any(held[stage.name][:-2])
        if found.done:
            assert stage.instances == frozenset(EVERYBODY)
            return
