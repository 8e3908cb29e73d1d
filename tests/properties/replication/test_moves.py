"""What a move of a home writes anew reads as it did before."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mesh.replication.core import cells, homes
from mesh.replication.core.cells import Stamp
from mesh.replication.core.clocks import Origin
from tests.properties.replication.test_merge_laws import PATH, STEPS, Step, run

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
