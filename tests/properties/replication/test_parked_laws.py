"""Parked cells: a semilattice too, and what comes of one does not depend on when it was parked."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mesh.replication.core import cells, entities
from mesh.replication.core.cells import RULES, Stamp, State, parked
from mesh.replication.core.entities import UPSERT, Change, EntityState
from mesh.replication.core.parked import KNOWN, Known, parked_shape
from mesh.replication.core.rules.parked import Kept, fold
from mesh.replication.core.shapes import pack
from tests.properties.replication.test_merge_laws import REGIONS, STEPS, Step, delta_of

VALUE = b"\x12\x01a"
Written = tuple[Stamp, bytes]


def written(number: int, steps: list[Step]) -> list[Written]:
    """The deltas of an execution, as they would be in frames."""
    rule = RULES[number]
    now: list[State | None] = [None, None, None]
    found = []
    for clock, (me, other, act, value) in enumerate([*steps, (0, 0, 1, VALUE)], 1):
        if now[other] is not None:
            now[me] = now[other] if now[me] is None else rule.join(now[me], now[other])
        delta = delta_of(number, now[me], REGIONS[me], act, value)
        stamp = Stamp(clock, *REGIONS[me])
        small = rule.from_delta(stamp, delta)
        now[me] = small if now[me] is None else rule.join(now[me], small)
        found.append((stamp, delta))
    return found


def joined(number: int, deltas: list[Written]) -> State:
    rule = RULES[number]
    state, *others = (rule.from_delta(*each) for each in deltas)
    for other in others:
        state = rule.join(state, other)
    return state


NUMBERS = st.sampled_from(sorted(RULES))


@given(st.data(), NUMBERS, STEPS)
def test_parked_cells_are_a_semilattice(
    data: st.DataObject, number: int, steps: list[Step]
) -> None:
    deltas = written(number, steps)

    def state() -> State:
        some = data.draw(st.lists(st.sampled_from(deltas), max_size=4))
        bases = data.draw(st.lists(st.sampled_from(deltas), max_size=4))
        base = {RULES[number].encode(joined(number, bases))} if bases else set()
        return Kept(frozenset(base), dict(some))

    a, b, c = state(), state(), state()
    assert parked.join(a, b) == parked.join(b, a)
    assert parked.encode(parked.join(a, b)) == parked.encode(parked.join(b, a))
    assert parked.join(parked.join(a, b), c) == parked.join(a, parked.join(b, c))
    assert parked.join(a, a) is a
    assert parked.decode(parked.encode(a)) == a


@given(st.data(), NUMBERS, STEPS)
def test_what_was_parked_comes_to_what_was_merged_at_once(
    data: st.DataObject, number: int, steps: list[Step]
) -> None:
    """Split anyhow into what a newer version merged, what an older parked, in any order."""
    deltas = written(number, steps)
    merged = joined(number, deltas)
    early = data.draw(st.integers(0, len(deltas)))
    late = data.draw(st.permutations(deltas[early:]))
    kept = Kept()
    if early:
        # Merged by a version that knew the rule, which then gave way to one that does not.
        state = RULES[number].encode(joined(number, deltas[:early]))
        kept = parked.join(kept, Kept(frozenset({state})))
    for stamp, delta in late:
        kept = parked.join(kept, parked.from_delta(stamp, delta))
    found, left = fold(parked.decode(parked.encode(kept)), RULES[number], 2)
    assert left == Kept()
    assert RULES[number].encode(found) == RULES[number].encode(merged)


@given(st.data(), NUMBERS, STEPS)
def test_entities_go_through_upgrades_and_downgrades(
    data: st.DataObject, number: int, steps: list[Step]
) -> None:
    """A store is opened by versions that know the rule, and that do not, between the changes."""
    older = Known(KNOWN.rules - {number}, KNOWN.kinds)
    shape = ((b"\x02", number), (b"\x03", cells.COUNTER))
    changes = [
        Change(
            ("t", "k"),
            1,
            UPSERT,
            stamp,
            "actor",
            "",
            "",
            0,
            shape,
            pack(shape, [delta, bytes([stamp.clock, 0])]),
        )
        for stamp, delta in written(number, steps)
    ]
    straight: EntityState | None = None
    rolled: EntityState | None = None
    for change in changes:
        known = data.draw(st.sampled_from([KNOWN, older]))
        straight = entities.join(straight, entities.received(change))
        if rolled is not None:
            rolled = entities.decode(entities.encode(rolled), known.rules)
        taken = change._replace(shape=parked_shape(shape, known))
        rolled = entities.join(rolled, entities.received(taken))
    assert straight is not None and rolled is not None
    assert entities.decode(entities.encode(rolled)) == straight
    assert entities.encode(entities.decode(entities.encode(rolled))) == entities.encode(straight)
