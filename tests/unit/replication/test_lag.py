"""How far a region is behind, against the truth."""

from __future__ import annotations

import asyncio
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from isthmus.mesh.v1 import status_pb2

from mesh.replication.core.clocks import COUNTER_BITS, Origin, milliseconds
from mesh.replication.core.lag import MOST_MARKS, Behind, Lag
from tests.unit.replication.test_group_links import Region, until

EU = Origin("eu", 7)


def clock(ms: int) -> int:
    return ms << COUNTER_BITS


def test_the_age_is_that_of_the_oldest_change_that_is_missing() -> None:
    lag = Lag()
    lag.note(EU, 3, clock(1000))
    lag.note(EU, 9, clock(4000))
    known = [{EU: 5}, {EU: 9}]
    assert lag.behind({EU: 2}, known, 6000) == {EU: Behind(7, 5000, exact=True)}
    # Nobody has said when the fourth was made: it was before the ninth.
    assert lag.behind({EU: 3}, known, 6000) == {EU: Behind(6, 2000, exact=False)}
    assert lag.behind({EU: 3}, [{EU: 5}], 6000) == {EU: Behind(2, None, exact=False)}
    assert lag.behind({EU: 9}, known, 6000) == {}
    assert lag.behind({}, [], 6000) == {}
    lag.applied({EU: 3})
    assert lag.behind({EU: 2}, known, 6000) == {EU: Behind(7, 2000, exact=False)}


@given(st.lists(st.integers(0, 50), min_size=1, max_size=200), st.data())
def test_it_is_never_more_than_the_truth(steps: list[int], data: st.DataObject) -> None:
    made = [sum(steps[: at + 1]) for at in range(len(steps))]
    applied = data.draw(st.integers(0, len(made) - 1))
    told = data.draw(st.lists(st.integers(1, len(made)), max_size=150))
    lag = Lag()
    for sequence in told:
        lag.note(EU, sequence, clock(made[sequence - 1]))
    assert len(lag._marks.get(EU, ())) <= MOST_MARKS
    now_ms = made[-1] + 10
    (found,) = lag.behind({EU: applied}, [{EU: len(made)}], now_ms).values()
    truth = now_ms - made[applied]
    assert found.changes == len(made) - applied
    assert found.age_ms is None or found.age_ms <= truth
    if found.exact:
        assert found.age_ms == truth


def _lag(region: Region, of: str) -> status_pb2.GroupStatus:
    status = region.group.status()
    return next((each for each in status.lags if each.origin.region == of), None)


def _link(region: Region, peer: str):
    return next(link for link in region.group.status().links if link.peer == peer)


async def test_a_link_that_is_cut_is_told_by_the_others(tmp_path: Path) -> None:
    """What waits for its signature, since no roots are here: known, told, and never applied."""
    names = ("ap", "eu", "us")
    ap, eu, us = (Region(name, tmp_path, tuple(n for n in names if n != name)) for name in names)
    us.signing, us.cut_off, eu.cut_off = None, {"eu"}, {"us"}
    await asyncio.gather(ap.start(), eu.start(), us.start())
    try:
        await eu.title("c1", "one")
        (origin, _), *_ = eu.group.journal.vector.items()
        first_ms = milliseconds(eu.group.journal.seen.clocks[origin])
        await eu.title("c1", "two")
        await until(lambda: ap.group.journal.vector.get(origin) == 2, 40)
        await until(lambda: any(each.relay == "ap" for each in us.group.status().waiting), 40)
        await until(lambda: _lag(us, "eu") is not None and _lag(us, "eu").changes == 2, 40)
        # `lag` and the truth are read one after the other.
        before = us.group.now_ms() - first_ms
        told = _lag(us, "eu").lag.ToMilliseconds()
        assert before <= told <= us.group.now_ms() - first_ms
        link = _link(us, "ap")
        assert (link.lag_changes, link.lag_at_least) == (2, False)
        (waiting,) = us.group.status().waiting
        assert waiting.origin.region == "eu" and waiting.bytes > 0 and "no roots" in waiting.refusal
        await until(lambda: _link(ap, "us").unacknowledged_changes == 2, 40)
        assert _link(ap, "us").unacknowledged.ToMilliseconds() >= before
        # Nothing came from eu itself, ever.
        silent = _link(us, "eu")
        assert silent.lag_at_least and not silent.HasField("silence")
    finally:
        await asyncio.gather(*(region.stop() for region in (ap, eu, us)))


async def test_a_region_that_hears_nothing_says_at_least(tmp_path: Path) -> None:
    eu, us = (Region(name, tmp_path, ("us" if name == "eu" else "eu",)) for name in ("eu", "us"))
    await asyncio.gather(eu.start(), us.start())
    try:
        await eu.title("c1", "one")
        await until(lambda: us.group.journal.vector == eu.group.journal.vector, 40)
        await until(lambda: _link(eu, "us").unacknowledged_changes == 0, 40)
        assert _lag(us, "eu") is None
        await eu.stop()
        await until(lambda: _lag(us, "eu") is not None, 40)
        lag = _lag(us, "eu")
        assert (lag.changes, lag.at_least) == (0, True) and lag.silence.ToMilliseconds() > 0
        await eu.start()
        await until(lambda: _lag(us, "eu") is None, 40)
    finally:
        await asyncio.gather(eu.stop(), us.stop())
