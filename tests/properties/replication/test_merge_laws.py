"""The laws of every merge rule and of entities: commutative, associative, idempotent."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mesh.replication.core import cells, entities
from mesh.replication.core.cells import Stamp, State
from mesh.replication.core.clocks import Origin
from mesh.replication.core.entities import DELETE, UPSERT, Change, EntityState
from mesh.replication.core.rules import escrow
from mesh.replication.core.shapes import CellKey, Shape, pack, shape_of

REGIONS = (Origin("ap", 1), Origin("eu", 1), Origin("eu", 2))
PATH = b"\x02"
VALUES = st.sampled_from([b"", b"\x12\x01a", b"\x12\x01b", b"\x12\x02ab"])

Step = tuple[int, int, int, bytes]
"""Which replica acts, which one it merges from first, what it does, and with which value."""

STEPS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 5), VALUES), max_size=24
)


def run(number: int, steps: list[Step]) -> list[State]:
    """Every state and delta of an execution in which replicas write and merge."""
    rule = cells.RULES[number]
    now: list[State | None] = [None, None, None]
    seen: list[State] = []
    for clock, (me, other, act, value) in enumerate(steps, 1):
        if now[other] is not None:
            now[me] = now[other] if now[me] is None else rule.join(now[me], now[other])
        delta = delta_of(number, now[me], REGIONS[me], act, value)
        small = rule.from_delta(Stamp(clock // 2, *REGIONS[me]), delta)
        now[me] = small if now[me] is None else rule.join(now[me], small)
        seen += (small, now[me])
    return seen


def delta_of(number: int, state: State, origin: Origin, act: int, value: bytes) -> bytes:
    if number in (cells.LATEST, cells.FIRST):
        # One stamp never carries two values, so the value follows from who writes when.
        return value
    if number in (cells.MAX, cells.MIN):
        return cells.Max.delta(bytes([act]), value)
    if number == cells.COUNTER:
        return cells.Counter.delta(state, origin, act - 2)
    if number == cells.BOUNDED_COUNTER:
        return cells.escrow.encode(rows_of(state or {}, origin, act))
    if number == cells.KEEP_BOTH:
        return cells.both.delta(state, origin, value, {origin: act} if act < 2 else None)
    if number == cells.MAP:
        entry = b"\x12\x05\x0a\x01" + (value[-1:] or b"k") + b"\x12\x00"
        if act % 2:
            return cells.registers.delta(state, origin, [entry])
        return cells.registers.delta(state, origin, remove=[entry])
    element = value or b"\x12\x00"
    if act % 2:
        return cells.Set.delta(state, origin, [element])
    return cells.Set.delta(state, origin, remove=[element])


def rows_of(rows: escrow.Rows, origin: Origin, act: int) -> escrow.Rows:
    if act < 2:
        return escrow.begun(origin, act + 3, 1) if origin not in rows else {}
    if act == 2:
        return escrow.added(rows, origin, 4)
    if act == 3:
        return escrow.taken(rows, origin, 2, ()) or {}
    if act == 4:
        return escrow.asking(rows, origin, {"ap": 3, "eu": 1})
    return escrow.answering(rows, origin, ())


def check_laws(number: int, a: State, b: State, c: State) -> None:
    rule = cells.RULES[number]

    def join(*states: State) -> bytes:
        joined = states[0]
        for state in states[1:]:
            joined = rule.join(joined, state)
        return rule.encode(joined)

    assert join(a, a) == rule.encode(a)
    assert rule.join(a, a) is a
    assert join(a, b) == join(b, a)
    assert join(rule.join(a, b), c) == join(a, rule.join(b, c))
    assert rule.encode(rule.decode(rule.encode(a))) == rule.encode(a)
    assert rule.render(3, rule.decode(rule.encode(a))) == rule.render(3, a)


@given(st.data(), st.sampled_from(sorted(cells.RULES)), STEPS)
def test_rules_are_semilattices(data: st.DataObject, number: int, steps: list[Step]) -> None:
    states = run(number, [*steps, (0, 0, 1, b"\x12\x01a")])
    pick = st.sampled_from(states)
    check_laws(number, data.draw(pick), data.draw(pick), data.draw(pick))


@given(st.sampled_from([cells.SET, cells.MAP, cells.KEEP_BOTH]), STEPS)
def test_dots_that_arrive_in_causal_order_have_no_gaps(number: int, steps: list[Step]) -> None:
    for state in run(number, steps)[1::2]:
        assert state[2] == frozenset()


def test_an_addition_wins_over_a_concurrent_removal() -> None:
    eu, us = Origin("eu", 1), Origin("us", 1)
    rule = cells.orset
    base = rule.from_delta(Stamp(1, *eu), cells.Set.delta(None, eu, [b"\x0a\x01x"]))
    again = rule.from_delta(Stamp(2, *us), cells.Set.delta(base, us, [b"\x0a\x01x"]))
    gone = rule.from_delta(Stamp(3, *eu), cells.Set.delta(base, eu, remove=[b"\x0a\x01x"]))
    assert rule.render(1, rule.join(base, gone)) == b""
    for first, second in ((again, gone), (gone, again)):
        assert rule.render(1, rule.join(rule.join(base, first), second)) == b"\x0a\x01x"


def packed(deltas: dict[CellKey, bytes]) -> tuple[Shape, bytes]:
    shape = shape_of(deltas)
    return shape, pack(shape, [deltas[key] for key in shape])


@st.composite
def changes(draw: st.DrawFn) -> list[Change]:
    """Changes with unique stamps; COUNTER totals grow with the clock, as a writer's do."""
    found = []
    for clock in range(1, draw(st.integers(1, 8)) + 1):
        origin = draw(st.sampled_from(REGIONS))
        kind = draw(st.sampled_from([UPSERT, UPSERT, UPSERT, DELETE]))
        deltas = {}
        if kind == UPSERT:
            deltas[b"\x02", cells.LATEST] = draw(VALUES)
            if draw(st.booleans()):
                deltas[b"\x04", cells.LATEST] = draw(st.sampled_from([b"", b"\x20\x01"]))
            if draw(st.booleans()):
                deltas[b"\x03\x01", cells.COUNTER] = bytes([clock, clock // 2])
        found.append(
            Change(
                ("t", "k"),
                draw(st.integers(1, 3)),
                kind,
                Stamp(clock, *origin),
                f"actor{clock}",
                "",
                "",
                0,
                *packed(deltas),
            )
        )
    return found


def fold(found: list[Change]) -> EntityState | None:
    state = None
    for change in found:
        state = entities.apply(state, change)
    return state


@given(st.data(), changes())
def test_entities_do_not_depend_on_order(data: st.DataObject, found: list[Change]) -> None:
    one = fold(found)
    assert one is not None
    other = fold([*data.draw(st.permutations(found)), *found])
    assert other is not None
    assert entities.encode(one) == entities.encode(other)
    assert entities.join(one, other) is one
    assert entities.decode(entities.encode(one)) == one
    assert one.generation == max(change.generation for change in found)


@given(changes(), changes(), changes())
def test_entity_states_are_a_semilattice(x: list[Change], y: list[Change], z: list[Change]) -> None:
    # Different clocks for each, so that no stamp stands for two changes.
    def state(found: list[Change], shift: int) -> EntityState:
        shifted = [
            c._replace(stamp=c.stamp._replace(clock=c.stamp.clock * 3 + shift)) for c in found
        ]
        folded = fold(shifted)
        assert folded is not None
        return folded

    a, b, c = state(x, 0), state(y, 1), state(z, 2)
    assert entities.join(a, b) == entities.join(b, a)
    assert entities.join(entities.join(a, b), c) == entities.join(a, entities.join(b, c))
    assert entities.join(a, a) is a


def test_a_delete_ends_its_generation_and_no_other() -> None:
    def change(clock: int, generation: int, kind: int) -> Change:
        cell = {(b"\x02", cells.LATEST): b"\x12\x01a"} if kind == UPSERT else {}
        stamp = Stamp(clock, "eu", 1)
        return Change(("t", "k"), generation, kind, stamp, "a", "", "", 0, *packed(cell))

    deleted = fold([change(1, 1, UPSERT), change(2, 1, DELETE), change(3, 1, UPSERT)])
    assert deleted is not None and deleted.deleted and not deleted.cells
    assert deleted.changed.clock == 2
    again = entities.apply(deleted, change(4, 2, UPSERT))
    assert not again.deleted and again.generation == 2 and again.cells
    assert entities.apply(again, change(9, 1, DELETE)) is again
