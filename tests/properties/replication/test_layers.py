"""Layers of plain changes are merged as such: with what merging them cell by cell gives."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.replication.core import entities
from mesh.replication.core.cells import LATEST, Stamp
from mesh.replication.core.entities import Change, EntityState
from mesh.replication.core.shapes import Packed, pack, shape_of
from mesh.replication.core.wire import piece, tag, varint

FIELDS = range(1, 6)
LENGTH = 2


def change(region: str, clock: int, numbers: frozenset[int]) -> Change:
    """Writes fields; what it writes follows from who and when, as no two changes share a stamp."""
    shape = shape_of((varint(number), LATEST) for number in numbers)
    values = [
        tag(number, LENGTH) + piece(f"{region}{clock}".encode()) for number in sorted(numbers)
    ]
    stamp = Stamp(clock, region, 1)
    return Change(
        ("t", "k"), 1, entities.UPSERT, stamp, "who", "", "", 0, shape, pack(shape, values)
    )


def cell_by_cell(state: EntityState) -> EntityState:
    return state._replace(cells=dict(state.cells.items()))


changes = st.builds(
    change,
    st.sampled_from(("eu", "us")),
    st.integers(1, 30),
    st.frozensets(st.sampled_from(FIELDS), min_size=1),
)


def applied(some: list[Change]) -> EntityState:
    state = None
    for each in some:
        state = entities.apply(state, each)
    assert state is not None
    return state


@settings(deadline=None)  # as long as it takes on a busy machine
@given(st.lists(changes, min_size=1, max_size=15, unique_by=lambda each: each.stamp), st.data())
def test_layers_join_as_their_cells_do(some: list[Change], data: st.DataObject) -> None:
    parts = [
        data.draw(st.lists(st.sampled_from(some), min_size=1, max_size=15, unique=True))
        for _ in range(2)
    ]
    one, other = map(applied, parts)
    joined = entities.join(one, other)
    expected = entities.join(cell_by_cell(one), cell_by_cell(other))
    assert joined is not None and expected is not None
    assert joined == expected
    assert entities.encode(joined) == entities.encode(expected)
    again = entities.decode(entities.encode(joined))
    assert again == joined and entities.encode(again) == entities.encode(joined)
    assert entities.join(joined, other) is joined and entities.join(joined, one) is joined
    known = applied(data.draw(st.lists(st.sampled_from(parts[0]), min_size=1, max_size=15)))
    known = known._replace(created=max(known.created, one.created))
    assert entities.join(one, known) is one and entities.join(one, cell_by_cell(known)) is one
    for have in one, entities.decode(entities.encode(one)):
        assert entities.join(have, entities.decode(entities.encode(known))) is have
        assert entities.join(have, known) is have


@given(st.lists(changes, min_size=2, max_size=6, unique_by=lambda each: each.stamp))
@settings(deadline=None)
def test_what_was_stored_in_layers_is_read_in_layers(some: list[Change]) -> None:
    state = applied(some)
    assert isinstance(state.cells, Packed)
    read = entities.decode(entities.encode(state))
    assert isinstance(read.cells, Packed)
    assert read.cells.items() == state.cells.items()
