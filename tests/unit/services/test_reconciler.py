"""Who encodes what: the reconciler's decisions, case by case and by law."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from isthmus.channels.v1 import channel_pb2 as c
from isthmus.channels.v1.channel_pb2 import INTENT_ON_AIR, INTENT_STOPPED, Assignment, Channel
from isthmus.devices.v1.device_pb2 import DUTY_ACTIVE, DUTY_MAINTENANCE, Device, Duty, Session

from services.channels.reconciler import Decision, Patience, World, decider, plan

RING = ("eu", "us", "ap")
NOW = 1_700_000_000_000


def device(
    device_id: str,
    region: str | None = None,
    *,
    capacity: int = 2,
    duty: Duty.ValueType = DUTY_ACTIVE,
    gateway: str | None = None,
    ended: bool = False,
) -> Device:
    region = region or device_id.split("-")[0]
    return Device(
        device_id=device_id,
        region=region,
        capacity=capacity,
        duty=duty,
        session=Session(epoch=1, connected_rank=int(ended), gateway_region=gateway or region),
    )


def channel(
    channel_id: str = "news",
    home: str = "eu",
    *,
    on: tuple[str, str] | None = None,
    epoch: int = 7,
    by: str = "eu",
    pinned: bool = False,
    stopped: bool = False,
) -> Channel:
    """`on` is (encoder, standby)."""
    return Channel(
        channel_id=channel_id,
        home_region=home,
        intent=INTENT_STOPPED if stopped else INTENT_ON_AIR,
        pinned=pinned,
        assignment=Assignment(epoch=epoch, region=by, device_id=on[0], standby_device_id=on[1])
        if on
        else None,
    )


def world(
    channels: Iterable[Channel],
    devices: Iterable[Device],
    *,
    region: str = "eu",
    silent: dict[str, int] | None = None,
    ended: dict[str, int] | None = None,
) -> World:
    """`silent` and `ended` say for how long, in milliseconds."""
    since = {key: NOW - span for key, span in (silent or {}).items()}
    return World(
        region=region,
        ring=RING,
        now_ms=NOW,
        channels=list(channels),
        devices=list(devices),
        silent=since,
        gateways_silent=since,
        ended={key: NOW - span for key, span in (ended or {}).items()},
    )


EU = [device("eu-1"), device("eu-2")]
ALL = [*EU, device("us-1"), device("us-2")]


def only(seen: World) -> Assignment:
    (decision,) = plan(seen).decisions
    return decision.assignment


def test_a_start_takes_a_device_and_a_standby_at_home() -> None:
    found = only(world([channel()], ALL))
    assert {found.device_id, found.standby_device_id} == {"eu-1", "eu-2"}
    assert (found.epoch, found.region) == (NOW, "eu")
    assert found.reason == c.ASSIGNMENT_REASON_STARTED
    assert not found.previous_device_id


def test_without_room_at_home_it_goes_on_in_failover_order() -> None:
    found = only(world([channel()], [device("ap-1"), device("us-1"), device("us-2")]))
    assert {found.device_id, found.standby_device_id} == {"us-1", "us-2"}


@pytest.mark.parametrize(
    "unfit",
    [
        device("eu-1", duty=DUTY_MAINTENANCE),
        device("eu-1", ended=True),
        device("eu-1", gateway="us"),
        Device(device_id="eu-1", region="eu", capacity=2, duty=DUTY_ACTIVE),
    ],
)
def test_nothing_goes_to_an_unfit_device(unfit: Device) -> None:
    found = plan(world([channel()], [unfit], silent={"us": 100}))
    assert found.decisions == ()
    assert "no device" in found.waiting["news"]


def test_only_the_home_region_decides() -> None:
    assert plan(world([channel()], ALL, region="us")).decisions == ()


def test_a_stop_frees_the_encoder() -> None:
    found = only(world([channel(on=("eu-1", "eu-2"), stopped=True)], EU))
    assert found == Assignment(
        epoch=8, region="eu", reason=c.ASSIGNMENT_REASON_STOPPED, previous_device_id="eu-1"
    )
    stopped = Channel(channel_id="news", home_region="eu", intent=INTENT_STOPPED, assignment=found)
    assert plan(world([stopped], EU)).decisions == ()


def test_a_lost_device_is_replaced_by_its_standby() -> None:
    devices = [device("eu-1", ended=True), device("eu-2"), device("us-1")]
    seen = world([channel(on=("eu-1", "eu-2"))], devices, ended={"eu-1": 1000})
    found = only(seen)
    assert (found.device_id, found.standby_device_id) == ("eu-2", "us-1")
    assert (found.epoch, found.previous_device_id) == (8, "eu-1")
    assert found.reason == c.ASSIGNMENT_REASON_DEVICE_LOST
    assert plan(seen).decisions[0].moves


def test_a_device_may_come_back_within_a_second() -> None:
    devices = [device("eu-1", ended=True), device("eu-2")]
    seen = world([channel(on=("eu-1", "eu-2"))], devices, ended={"eu-1": 999})
    assert plan(seen).decisions == ()


def test_a_device_behind_a_silent_region_is_lost_after_three_seconds() -> None:
    devices = [device("us-1"), device("eu-1"), device("eu-2")]
    for span, decided in ((2999, False), (3000, True)):
        seen = world([channel(on=("us-1", "eu-1"))], devices, silent={"us": span})
        assert bool(plan(seen).decisions) == decided


def test_a_lost_device_without_a_successor_keeps_its_channel() -> None:
    seen = world([channel(on=("eu-1", ""))], [device("eu-1", ended=True)], ended={"eu-1": 9999})
    found = plan(seen)
    assert found.decisions == ()
    assert "eu-1 is lost" in found.waiting["news"]


def test_a_lost_standby_is_replaced_and_a_missing_one_found() -> None:
    for standby in ("eu-9", ""):
        found = only(world([channel(on=("eu-1", standby))], EU))
        assert (found.device_id, found.standby_device_id) == ("eu-1", "eu-2")
        assert found.reason == c.ASSIGNMENT_REASON_STANDBY_CHANGED


def test_maintenance_moves_a_channel_unless_it_is_pinned() -> None:
    devices = [device("eu-1", duty=DUTY_MAINTENANCE), device("eu-2"), device("us-1")]
    found = only(world([channel(on=("eu-1", "eu-2"))], devices))
    assert (found.device_id, found.reason) == ("eu-2", c.ASSIGNMENT_REASON_MAINTENANCE)
    assert found.previous_device_id == "eu-1"
    pinned = plan(world([channel(on=("eu-1", "eu-2"), pinned=True)], devices))
    assert pinned.decisions == ()
    assert "pinned" in pinned.waiting["news"]


def test_a_pinned_channel_moves_on_loss() -> None:
    devices = [device("eu-1", ended=True), device("eu-2")]
    seen = world([channel(on=("eu-1", "eu-2"), pinned=True)], devices, ended={"eu-1": 5000})
    assert only(seen).device_id == "eu-2"


def test_maintenance_without_another_device_waits() -> None:
    found = plan(world([channel(on=("eu-1", ""))], [device("eu-1", duty=DUTY_MAINTENANCE)]))
    assert found.decisions == ()
    assert "maintenance" in found.waiting["news"]


def test_a_lost_regions_channel_is_adopted_after_four_seconds() -> None:
    lost = [channel(on=("eu-1", "eu-2"))]
    assert plan(world(lost, ALL, region="us", silent={"eu": 3999})).decisions == ()
    found = only(world(lost, ALL, region="us", silent={"eu": 4000}))
    assert (found.epoch, found.region) == (8, "us")
    assert {found.device_id, found.standby_device_id} == {"us-1", "us-2"}
    assert found.reason == c.ASSIGNMENT_REASON_REGION_LOST


def test_the_next_region_adopts_only_if_it_sees_those_before_it_lost_too() -> None:
    lost = [channel(on=("eu-1", "eu-2"))]
    devices = [*ALL, device("ap-1")]
    assert plan(world(lost, devices, region="ap", silent={"eu": 9000})).decisions == ()
    found = only(world(lost, devices, region="ap", silent={"eu": 9000, "us": 4000}))
    assert (found.device_id, found.region) == ("ap-1", "ap")


def test_an_adopted_channel_stays_on_its_device_if_that_came_along() -> None:
    devices = [device("eu-1", gateway="us"), device("us-1")]
    found = only(world([channel(on=("eu-1", "us-1"))], devices, region="us", silent={"eu": 4000}))
    assert (found.device_id, found.standby_device_id, found.region) == ("eu-1", "us-1", "us")


def test_a_region_that_returns_takes_nothing_back() -> None:
    adopted = channel(on=("us-1", "us-2"), by="us")
    assert plan(world([adopted], ALL, region="eu")).decisions == ()
    assert decider(adopted, world([], []), Patience()) == "us"
    # Once it is stopped and started again, it is its home's.
    again = channel(epoch=9, on=("", ""), by="us")
    assert only(world([again], ALL, region="eu")).region == "eu"


def test_a_region_that_is_cut_off_goes_on_alone() -> None:
    seen = world([channel(on=("eu-1", "eu-2"))], ALL, silent={"us": 9000, "ap": 9000})
    assert plan(seen).decisions == ()
    gone = [device("eu-1", ended=True), device("eu-2"), device("us-1")]
    cut = replace(seen, devices=gone, ended={"eu-1": 0})
    assert only(cut).device_id == "eu-2"


def test_a_takeover_may_use_what_is_reserved_for_standbys() -> None:
    devices = [device("eu-1", capacity=1), device("eu-2", capacity=1), device("eu-3", capacity=1)]
    channels = [channel("a", on=("eu-1", "eu-3")), channel("b", on=("eu-2", "eu-3"))]
    # eu-3 has room for one standby only, so the second has none.
    found = {d.channel_id: d.assignment for d in plan(world(channels, devices)).decisions}
    assert [a.standby_device_id for a in found.values()] == [""]
    third = [*channels[:1], channel("b", on=("eu-2", "")), channel("c")]
    decided = {d.channel_id: d.assignment for d in plan(world(third, devices)).decisions}
    assert decided["c"].device_id == "eu-3"
    assert decided["a"].standby_device_id == ""


def test_channels_spread() -> None:
    devices = [device(f"eu-{n}", capacity=4) for n in range(4)]
    found = plan(world([channel(f"c{n}") for n in range(8)], devices)).decisions
    loads = [sum(d.assignment.device_id == each.device_id for d in found) for each in devices]
    assert max(loads) <= 4 and min(loads) >= 1


# ---- laws

names = [f"{region}-{n}" for region in RING for n in (1, 2)]
regions = st.sampled_from(RING)


@st.composite
def devices_in(draw: st.DrawFn) -> list[Device]:
    return [
        device(
            name,
            capacity=draw(st.integers(1, 3)),
            duty=draw(st.sampled_from([DUTY_ACTIVE, DUTY_ACTIVE, DUTY_MAINTENANCE])),
            gateway=draw(st.sampled_from([name.split("-")[0], "us"])),
            ended=draw(st.booleans()) and draw(st.booleans()),
        )
        for name in draw(st.lists(st.sampled_from(names), unique=True))
    ]


@st.composite
def channels_in(draw: st.DrawFn) -> list[Channel]:
    found = []
    for n in range(draw(st.integers(0, 5))):
        on = None
        if draw(st.booleans()):
            encoder = draw(st.sampled_from([*names, ""]))
            standby = draw(st.sampled_from([*names, ""]))
            on = (encoder, standby if encoder and standby != encoder else "")
        found.append(
            channel(
                f"c{n}",
                draw(regions),
                on=on,
                epoch=draw(st.integers(1, 3)),
                by=draw(regions),
                pinned=draw(st.booleans()),
                stopped=draw(st.booleans()) and draw(st.booleans()),
            )
        )
    return found


@st.composite
def worlds(draw: st.DrawFn) -> World:
    region = draw(regions)
    spans = st.dictionaries(st.sampled_from([r for r in RING if r != region]), st.integers(0, 8000))
    return world(
        draw(channels_in()),
        draw(devices_in()),
        region=region,
        silent=draw(spans),
        ended=draw(st.dictionaries(st.sampled_from(names), st.integers(0, 3000))),
    )


def carried_out(seen: World, decisions: Iterable[Decision]) -> World:
    by_id = {decision.channel_id: decision.assignment for decision in decisions}
    channels = []
    for each in seen.channels:
        after = Channel()
        after.CopyFrom(each)
        if each.channel_id in by_id:
            after.assignment.CopyFrom(by_id[each.channel_id])
        channels.append(after)
    return replace(seen, channels=channels)


@given(worlds())
def test_a_world_that_stands_still_comes_to_rest(seen: World) -> None:
    for _ in range(6):
        decisions = plan(seen).decisions
        if not decisions:
            return
        seen = carried_out(seen, decisions)
    pytest.fail(f"still deciding: {plan(seen).decisions}")


@given(worlds())
def test_every_decision_is_lawful(seen: World) -> None:
    known = {each.device_id: each for each in seen.devices}
    before = {each.channel_id: each for each in seen.channels}
    for decision in plan(seen).decisions:
        old, new = before[decision.channel_id].assignment, decision.assignment
        assert decision.base == old
        assert (new.epoch, new.region) > (old.epoch, old.region)
        assert new.region == seen.region
        assert decider(before[decision.channel_id], seen, Patience()) == seen.region
        assert not new.device_id or new.device_id != new.standby_device_id
        for given_to in {new.device_id, new.standby_device_id} - {
            "",
            old.device_id,
            old.standby_device_id,
        }:
            fit = known[given_to]
            assert fit.duty == DUTY_ACTIVE
            assert not fit.session.connected_rank
            assert fit.session.gateway_region not in seen.gateways_silent
        if new.device_id not in ("", old.device_id):
            fit = known[new.device_id]
            assert fit.duty == DUTY_ACTIVE and not fit.session.connected_rank


@given(worlds())
def test_regions_that_see_the_same_never_decide_the_same_channel(seen: World) -> None:
    heard = replace(seen, silent={}, gateways_silent={})
    deciding = [
        {decision.channel_id for decision in plan(replace(heard, region=region)).decisions}
        for region in RING
    ]
    assert sum(map(len, deciding)) == len(set().union(*deciding))


@given(worlds())
def test_new_encoders_never_exceed_capacity(seen: World) -> None:
    after = carried_out(seen, plan(seen).decisions)
    for each in seen.devices:

        def load(at: World, device_id: str = each.device_id) -> int:
            return sum(
                x.assignment.device_id == device_id and x.intent == INTENT_ON_AIR
                for x in at.channels
            )

        assert load(after) <= max(load(seen), each.capacity)
