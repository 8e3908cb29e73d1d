"""What a move of a home writes anew reads as it did before."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.replication.core import cells, homes
from mesh.replication.core.cells import Stamp
from mesh.replication.core.clocks import Origin
from tests.properties.replication.test_merge_laws import PATH, REGIONS, STEPS, Step, run

MOVER = Origin("us", 1)


@given(st.sampled_from(sorted(cells.RULES)), STEPS, st.data())
def test_a_cell_that_is_written_anew_reads_the_same(
    number: int, steps: list[Step], data: st.DataObject
) -> None:
    states = run(number, [*steps, (0, 0, 1, b"\x12\x01a")])
    before = data.draw(st.sampled_from(states))
    rule = cells.RULES[number]
    (delta,) = homes.anew({(PATH, number): before}, MOVER).values()
    after = rule.from_delta(Stamp(1_000, *MOVER), delta)
    assert rule.render(2, after) == rule.render(2, before)
    assert sorted(set(rule.values(after))) == sorted(set(rule.values(before)))
    assert rule.encode(rule.decode(rule.encode(after))) == rule.encode(after)


@pytest.mark.parametrize("first", [b"\x12\x01a", b"\x12\x01b"])
def test_of_concurrent_values_the_same_one_is_read(first: bytes) -> None:
    rule, second = cells.both, b"\x12\x01a" if first != b"\x12\x01a" else b"\x12\x01b"
    before = rule.join(
        rule.from_delta(Stamp(1, *REGIONS[0]), rule.delta(None, REGIONS[0], first)),
        rule.from_delta(Stamp(2, *REGIONS[1]), rule.delta(None, REGIONS[1], second)),
    )
    (delta,) = homes.anew({(PATH, cells.KEEP_BOTH): before}, MOVER).values()
    after = rule.from_delta(Stamp(3, *MOVER), delta)
    assert rule.render(2, before) == rule.render(2, after) == second
    assert len(after[0]) == 2
