"""What is stable, and which tombstones may be forgotten."""

from __future__ import annotations

import pytest

from mesh.replication.core import generations, homes
from mesh.replication.core.cells import Stamp
from mesh.replication.core.clocks import Origin
from mesh.replication.core.entities import CREATE, DELETE, UPSERT, Changed, EntityState
from mesh.replication.core.generations import DAY_MS
from mesh.replication.core.horizon import Stability, least

EU, US, AP = Origin("eu", 1), Origin("us", 1), Origin("ap", 1)


def test_the_horizon_is_what_all_have() -> None:
    assert least({EU: 5, US: 3}, [{EU: 4, US: 9}, {EU: 7, US: 1}]) == {EU: 4, US: 1}
    assert least({EU: 5, US: 3}, [{EU: 4}]) == {EU: 4}
    assert least({EU: 5}, [{}]) == {}
    assert least({EU: 5}, []) == {EU: 5}


def test_a_delete_is_stable_once_all_have_it_and_all_is_stored_that_they_wrote_before() -> None:
    stability = Stability()
    here, clocks = {EU: 5}, {EU: 50}
    words = {"us": {EU: 4}, "ap": {EU: 5}}
    assert not stability.look(here, clocks, words, here)
    assert not stability.look(here, clocks, words, here)
    # us has it now; what it wrote before that may not have seen it, and is not here yet
    words = {"us": {EU: 5, US: 7}, "ap": {EU: 5}}
    assert not stability.look({EU: 6}, {EU: 60}, words, here)
    assert not stability.look({EU: 6, US: 7}, {EU: 60, US: 61}, words, {EU: 6, US: 6})
    assert not stability.look({EU: 6, US: 7}, {EU: 60, US: 61}, words, {EU: 5, US: 7})
    assert not stability.clocks
    assert stability.look({EU: 6, US: 7}, {EU: 60, US: 62}, words, {EU: 6, US: 7})
    assert stability.clocks == {EU: 50}


def test_what_its_writer_has_lost_is_waited_for_and_what_all_have_lost_is_not() -> None:
    stability, former = Stability(), Origin("eu", 0)
    words = {"us": {EU: 5, former: 2}}
    looks = [stability.look({EU: 5}, {EU: 50}, words, {EU: 5}) for _ in range(9)]
    assert not any(looks)
    assert stability.look({EU: 5, former: 2}, {EU: 50}, words, {EU: 5, former: 2})

    lost = Stability()
    assert not any(lost.look({EU: 5}, {EU: 50}, words, {EU: 5}) for _ in range(9))
    words = {"us": {EU: 5}}  # its disk went, and that with it
    looks = [lost.look({EU: 5}, {EU: 50}, words, {EU: 5}) for _ in range(4)]
    assert looks == [False, False, False, True]


def test_who_is_alone_or_knows_nothing_yet() -> None:
    alone, stranger = Stability(), Stability()
    looks = [alone.look({EU: 5}, {EU: 50}, {}, {EU: 5}) for _ in range(3)]
    assert looks == [False, False, True]
    assert not any(stranger.look({EU: 5}, {EU: 50}, {"us": {}}, {EU: 5}) for _ in range(9))


def state(generation: int, *, deleted: bool = True) -> EntityState:
    return EntityState(generation, deleted, Stamp(1, "eu", 1), Changed(1, "eu", 1, "a"), {})


@pytest.mark.parametrize("homed", [False, True])
def test_whoever_creates_what_is_forgotten_begins_a_higher_generation(homed: bool) -> None:
    def begun(last: int, clock_ms: int) -> int:
        before = generations.last_before(last, clock_ms)
        return homes.created(before, "eu") if homed else before + 1

    day = 20_000
    first = begun(0, day * DAY_MS)
    assert homes.life(first) == day
    again = begun(begun(first, day * DAY_MS), day * DAY_MS)
    assert homes.life(again) == day + 2  # twice on one day
    for clock_ms in range((day - 1) * DAY_MS, (day + 9) * DAY_MS, DAY_MS // 3):
        if generations.forgettable(state(again), clock_ms):
            slow = clock_ms - DAY_MS + 1
            assert begun(0, slow) > again
    assert generations.forgettable(state(again), (day + 4) * DAY_MS)
    assert not generations.forgettable(state(again, deleted=False), (day + 4) * DAY_MS)


def test_an_update_is_void_where_its_generation_ended_and_is_forgotten() -> None:
    assert generations.is_void(UPSERT, None, 3) and generations.is_void(UPSERT, state(2), 3)
    assert not generations.is_void(UPSERT, state(3), 3)
    assert not generations.is_void(CREATE, None, 3)
    assert not generations.is_void(DELETE, None, 3)
