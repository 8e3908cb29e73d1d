"""One region writes an entity; a move fences the home before it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import pytest
from google.protobuf.message import Message

from mesh.replication import NotFound, NotHome, NotReplicated, RightsShort, Transaction
from mesh.replication.conflicts import view
from mesh.replication.core import entities, homes
from mesh.replication.core.batches import Visible
from mesh.replication.core.conflicts import Conflict
from mesh.replication.core.rules.parked import Kept
from mesh.replication.rendering import render
from mesh.replication.residency import whole
from mesh.replication.schema import GroupSchema
from tests.support.homes import ENTITY, PERSON, Person, class_of
from tests.support.regions import Region, World

SCHEMA = GroupSchema([ENTITY], class_of)


class Persons(World):
    """Regions with one person, `p`."""

    def __init__(self, *names: str) -> None:
        super().__init__(*names, schema=SCHEMA)
        self.conflicts: dict[str, list[Conflict]] = {name: [] for name in names}
        for region in self.regions.values():
            self._note(region)

    def _note(self, region: Region) -> None:
        stored, found = region.journal.stored, self.conflicts[region.name]

        def noting(batch: object) -> Visible:
            visible = stored(batch)  # type: ignore[arg-type] # what it was given
            found.extend(visible.conflicts)
            return visible

        region.journal.stored = noting  # type: ignore[method-assign] # to see what it decides

    def write(self, name: str, act: Callable[[Transaction], object]) -> None:
        region = self.regions[name]
        region.write(lambda tx: (act(tx), Person())[1], self.now_ms)
        region.commit()

    def get(self, name: str) -> Message | None:
        journal = self.regions[name].journal
        state = journal.committed.get((PERSON, "p"))
        if state is None or state.deleted:
            return None
        schema = SCHEMA.entities[PERSON]
        section = journal.residents.committed.get((PERSON, "p"))
        return Person.FromString(render(whole(state, section, schema, name), schema, "p")[0])

    def alive(self, name: str) -> Message:
        found = self.get(name)
        assert found is not None
        return found

    def settled(self) -> Message | None:
        """What all regions have in the end, to the byte."""
        self.settle()
        digests = {region.journal.digest() for region in self.regions.values()}
        assert len(digests) == 1
        found = [self.get(name) for name in self.regions]
        for each in found:
            if each is not None:
                each.ClearField("pin")
        assert all(each == found[0] for each in found)
        return found[0]


def person(**fields: object) -> Message:
    return Person(id="p", **fields)


def create(**fields: object) -> Callable[[Transaction], None]:
    return lambda tx: tx.create(person(**fields))


def title(value: str) -> Callable[[Transaction], None]:
    return lambda tx: tx.set(person(title=value), "title")


def move(to: str, *, take: bool = False) -> Callable[[Transaction], None]:
    return lambda tx: tx.move_home(Person, "p", to, take=take)


def delete(tx: Transaction) -> None:
    tx.delete(Person, "p")


@pytest.fixture
def world() -> Persons:
    world = Persons("ap", "eu", "us")
    world.write("eu", create(title="t", visits=3, stock=5, labels=["a"]))
    world.settle()
    return world


@pytest.mark.parametrize(
    "act",
    [
        title("u"),
        lambda tx: tx.set(person()),
        lambda tx: tx.add(Person, "p", "labels", "b"),
        lambda tx: tx.remove(Person, "p", "labels", "a"),
        lambda tx: tx.increment(Person, "p", "visits"),
        lambda tx: tx.set(person(pin=b"1"), "pin"),
        delete,
        move("ap"),
        move("ap", take=True),
        move("us"),
    ],
)
def test_other_regions_refuse_to_write_and_name_the_home(
    world: Persons, act: Callable[[Transaction], None]
) -> None:
    with pytest.raises(NotHome, match="its home alone, which is eu, and this is us") as refused:
        world.write("us", act)
    assert refused.value.home == "eu"


def test_an_entity_is_created_in_its_home(world: Persons) -> None:
    with pytest.raises(NotHome) as refused:
        world.write("us", lambda tx: tx.create(Person(id="q", home="eu")))
    assert refused.value.home == "eu"
    world.write("us", lambda tx: tx.create(Person(id="q", home="us")))
    assert world.alive("eu").home == "eu"  # filled in


def test_the_home_is_no_field_to_set(world: Persons) -> None:
    with pytest.raises(NotReplicated, match="by a move alone"):
        world.write("eu", lambda tx: tx.set(person(home="us"), "home"))
    world.write("eu", lambda tx: tx.set(person(home="us", title="u")))
    assert (world.alive("eu").home, world.alive("eu").title) == ("eu", "u")


def test_a_home_moves_to_a_region_of_the_group(world: Persons) -> None:
    with pytest.raises(NotReplicated, match="its regions are ap, eu, us"):
        world.write("eu", move("sa"))
    with pytest.raises(NotFound):
        world.write("eu", lambda tx: tx.move_home(Person, "ghost", "us"))


@pytest.mark.parametrize(("by", "take"), [("eu", False), ("us", True)])
def test_all_that_is_global_moves_along(world: Persons, by: str, take: bool) -> None:
    before = world.alive("eu")
    world.write(by, move("us", take=take))
    found = world.settled()
    before.home = "us"
    assert found == before
    world.write("us", lambda tx: tx.increment(Person, "p", "visits"))
    world.write("us", lambda tx: tx.remove(Person, "p", "labels", "a"))
    world.write("us", title("u"))
    with pytest.raises(NotHome):
        world.write("eu", title("v"))
    found = world.settled()
    assert found == person(home="us", title="u", visits=4, stock=5)
    assert not any(world.conflicts.values())


def test_fields_that_the_mover_does_not_know_move_along(world: Persons) -> None:
    older = [field for field in ENTITY.fields if field.name not in ("title", "visits", "labels")]
    entity = ENTITY.__class__(**{**ENTITY.__dict__, "fields": tuple(older)})
    world.regions["eu"].schema = GroupSchema([entity], class_of)
    before = world.alive("us")
    world.write("eu", move("us"))
    before.home = "us"
    assert world.settled() == before


def test_what_the_mover_cannot_read_does_not_move(world: Persons) -> None:
    eu = world.regions["eu"].journal
    state = eu.committed[PERSON, "p"]
    parked = {(b"\x63", -11): Kept(deltas={state.created: b"x"})}
    eu.committed[PERSON, "p"] = state._replace(cells={**state.cells, **parked})
    eu._parked.add((PERSON, "p"))
    with pytest.raises(NotReplicated, match="move it from a region of a newer version"):
        world.write("eu", move("us"))


def test_a_former_home_that_was_cut_off_loses_everywhere_and_is_shown(world: Persons) -> None:
    world.write("us", move("us", take=True))
    world.write("us", title("of us"))
    # It has not heard of it, and writes on.
    world.write("eu", title("of eu"))
    world.write("eu", lambda tx: tx.increment(Person, "p", "visits"))
    assert world.alive("eu").title == "of eu"
    found = world.settled()
    assert found is not None
    assert (found.home, found.title, found.visits) == ("us", "of us", 3)
    schema = SCHEMA.entities[PERSON]
    for name in ("eu", "us"):
        shown = [view(conflict, schema) for conflict in world.conflicts[name]]
        assert {each.rule for each in shown} == {"HOME"}, name
        lost = shown[-1].other.message if name == "eu" else shown[0].other.message
        assert lost.title == "of eu"


def test_a_delete_by_a_former_home_loses_and_is_shown(world: Persons) -> None:
    world.write("us", move("us", take=True))
    world.write("eu", delete)
    assert world.get("eu") is None
    assert world.settled() is not None
    assert [conflict.rule for conflict in world.conflicts["us"]] == [255]


def test_of_two_regions_that_take_a_home_one_wins_with_all_it_wrote(world: Persons) -> None:
    for name in ("us", "ap"):
        world.write(name, move(name, take=True))
        world.write(name, title(f"of {name}"))
    found = world.settled()
    assert found is not None
    assert found.title == f"of {found.home}"
    assert world.conflicts["us"] or world.conflicts["ap"]
    with pytest.raises(NotHome):
        world.write({"us": "ap", "ap": "us"}[found.home], title("again"))


def test_of_two_regions_that_create_one_wins_with_all_it_wrote() -> None:
    world = Persons("eu", "us")
    for name in ("eu", "us"):
        world.write(name, create(title=f"of {name}", visits=1))
    found = world.settled()
    assert found is not None
    assert (found.title, found.visits) == (f"of {found.home}", 1)


def test_a_bounded_counter_goes_on_in_the_new_home(world: Persons) -> None:
    world.write("eu", move("us"))
    world.settle()
    with pytest.raises(RightsShort):
        world.write("us", lambda tx: tx.increment(Person, "p", "stock", -4))
    # What a group does by itself: the rights are with who moved the home.
    world.write("us", lambda tx: tx.ask(Person, "p", "stock", {"eu": 4}))
    world.settle()
    world.write("eu", lambda tx: tx.hand_over(Person, "p"))
    world.settle()
    world.write("us", lambda tx: tx.increment(Person, "p", "stock", -4))
    found = world.settled()
    assert found is not None and found.stock == 1


def test_what_stays_is_seen_again_once_the_home_is_back(world: Persons) -> None:
    world.write("eu", lambda tx: tx.set(person(pin=b"1"), "pin"))
    world.write("eu", move("us"))
    world.settle()
    assert (world.alive("eu").pin, world.alive("us").pin) == (b"", b"")
    world.write("us", lambda tx: tx.set(person(pin=b"2"), "pin"))
    world.write("us", move("eu"))
    world.settle()
    assert (world.alive("eu").pin, world.alive("us").pin) == (b"1", b"")
    world.write("eu", delete)
    world.write("eu", create())
    world.settle()
    assert world.alive("eu").pin == b""
    assert not any(r.journal.residents.committed for r in world.regions.values())


def test_a_write_that_fails_leaves_nothing_that_stays(world: Persons) -> None:
    eu = world.regions["eu"]
    for value in (b"1", b"2"):
        eu.write(lambda tx, v=value: (tx.set(person(pin=v), "pin"), Person())[1], world.now_ms)
    eu.take()
    eu.write(lambda tx: (tx.set(person(pin=b"3"), "pin"), Person())[1], world.now_ms)
    section = eu.journal.residents
    assert section.look((PERSON, "p")) is not None
    eu.commit(works=False)
    assert len(eu.refused) == 3
    assert section.look((PERSON, "p")) is None
    world.write("eu", lambda tx: tx.set(person(pin=b"4"), "pin"))
    assert world.alive("eu").pin == b"4"


def _orders(parts: Sequence[str]) -> list[tuple[str, ...]]:
    return list(itertools.permutations(parts))


@pytest.mark.parametrize("order", _orders(("old home", "move", "new home")))
def test_generations_decide_in_any_order(order: tuple[str, ...]) -> None:
    first = homes.created(0, "eu")
    second = homes.moved(first, "us")
    states = {
        "old home": _state(first, 30, "eu"),
        "move": _state(second, 10, "us"),
        "new home": _state(second, 20, "us"),
    }
    joined = None
    for name in order:
        joined = entities.join(joined, states[name])
    assert joined is not None
    assert joined.changed.clock == 20 and joined.generation == second


def _state(generation: int, clock: int, region: str) -> entities.EntityState:
    stamp = entities.Stamp(clock, region, 1)
    return entities.EntityState(
        generation, False, stamp, entities.Changed(*stamp, "operator/first"), {}
    )


def test_a_life_is_told_from_a_move() -> None:
    first = homes.created(0, "eu")
    moved = homes.moved(first, "us")
    again = homes.created(moved, "eu")
    assert homes.life(first) == homes.life(moved) == 1 and homes.life(again) == 2
    assert first < moved < again
    assert homes.moves(first, moved)
    assert not homes.moves(moved, again) and not homes.moves(moved, first)
    # One that any region wrote so far, generation after generation, gets a home.
    given = homes.moved(3, "eu")
    assert given > 3 and homes.life(given) == 4 and not homes.moves(3, given)
    assert homes.created(homes.MOST_LIVES - 1, "eu") < 1 << 62
