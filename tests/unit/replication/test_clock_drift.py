"""Clocks that are wrong: writes are refused before they are acknowledged, and frames wait."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from mesh.replication import ClockAhead
from mesh.replication.core.drift import LATELY_MS, Drift
from tests.support.regions import World
from tests.unit.replication.test_group_links import regions, until
from tests.unit.replication.test_journal_core import create

MINUTE = 60_000


def check(drift: Drift, now_ms: int, written_ms: int = 0, monotonic_ms: int = 0) -> None:
    drift.check("eu", now_ms, written_ms, monotonic_ms)


def test_who_is_ahead_of_most_peers_must_not_write() -> None:
    drift = Drift()
    check(drift, 100 * MINUTE)
    drift.heard("us", 100 * MINUTE, 0)
    check(drift, 105 * MINUTE)
    with pytest.raises(ClockAhead, match=r"eu is ahead, by 360 s of us: set the clock of eu"):
        check(drift, 106 * MINUTE)
    drift.heard("ap", 106 * MINUTE, 0)
    check(drift, 106 * MINUTE)  # us may as well be behind
    drift.heard("sa", 99 * MINUTE, 0)
    with pytest.raises(ClockAhead, match="us, 420 s of sa"):
        check(drift, 106 * MINUTE)


def test_a_peers_clock_goes_on_and_counts_for_a_while() -> None:
    drift = Drift()
    drift.heard("us", 100 * MINUTE, 0)
    check(drift, 105 * MINUTE + 30_000, monotonic_ms=30_000)
    with pytest.raises(ClockAhead):
        check(drift, 105 * MINUTE + 31_000, monotonic_ms=30_000)
    check(drift, 200 * MINUTE, monotonic_ms=LATELY_MS + 1)


def test_what_was_written_in_the_future_comes_before_the_next_write() -> None:
    drift = Drift()
    drift.heard("us", 100 * MINUTE, 0)
    check(drift, 100 * MINUTE, written_ms=105 * MINUTE)
    with pytest.raises(ClockAhead, match="wrote under a clock that was wrong"):
        check(drift, 100 * MINUTE, written_ms=111 * MINUTE)


def test_a_frame_from_the_future_is_kept_and_applied_when_its_time_has_come() -> None:
    world = World("eu", "us")
    eu, us = world.regions.values()
    eu.skew_ms = 10 * MINUTE
    eu.write(create("c1"), 0)
    world.run(500)
    assert us.get("c1") is None
    assert us.journal.arrivals.early[eu.journal.origin] == pytest.approx(10 * MINUTE, abs=500)
    assert world.links["eu", "us"].fault is None
    world.now_ms += 4 * MINUTE
    assert not us.journal.arrivals.pass_time(1_000_000 + world.now_ms)
    world.now_ms += MINUTE
    assert us.journal.arrivals.pass_time(1_000_000 + world.now_ms)
    us.commit()
    assert us.get("c1") is not None
    assert not us.journal.arrivals.early


async def test_a_region_whose_clock_is_ahead_refuses_to_write(tmp_path: Path) -> None:
    async with regions(tmp_path, "eu", "us") as (eu, us):
        await eu.title("c1", "in time")
        await until(lambda: "us" in eu.group.presence.ahead_ms())
        clock = eu.group._clock
        eu.group._clock = lambda: time.time_ns() + 600 * 1_000_000_000
        with pytest.raises(ClockAhead, match="set the clock of eu"):
            await eu.title("c1", "from the future")
        await us.title("c2", "in time")
        await until(lambda: len(eu.group.status().vector.positions) == 2)
        eu.group._clock = clock
        await eu.title("c1", "in time again")


async def test_changes_from_the_future_are_shown(tmp_path: Path) -> None:
    async with regions(tmp_path, "eu", "us") as (eu, us):
        eu.group._clock = lambda: time.time_ns() + 600 * 1_000_000_000
        eu.group.presence.drift.heard = lambda *_: None  # as if nobody had been heard yet
        await eu.title("c1", "from the future")

        def early() -> int:
            found = {each.member.region: each for each in us.group.members.status().members}
            return found["eu"].early.seconds

        await until(lambda: early() > 500)
        assert not us.group.journal.committed
        us.group._clock = eu.group._clock
        await until(lambda: bool(us.group.journal.committed))
