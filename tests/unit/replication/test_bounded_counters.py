"""A counter that never falls below its bound: rights, hand-overs, and former lives."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from google.protobuf.message import Message

from mesh.replication import Transaction
from mesh.replication.core import errors
from mesh.replication.core.batches import Recovered
from mesh.replication.core.cells import escrow
from mesh.replication.core.clocks import Origin
from mesh.replication.core.rules.escrow import Row
from mesh.replication.core.rules.rule import Stamp
from mesh.replication.errors import BelowBound, RightsShort
from tests.support.merging import SCHEMA, Thing, read
from tests.support.regions import Region, World


def write(world: World, name: str, change: Callable[[Transaction], object]) -> None:
    world.now_ms += 1

    def run(tx: Transaction) -> Message:
        change(tx)
        return Thing()

    world.regions[name].write(run, world.now_ms)
    world.regions[name].commit()


def take(world: World, name: str, amount: int) -> None:
    write(world, name, lambda tx: tx.increment(Thing, "t", "stock", -amount))


def stock(world: World, name: str) -> int:
    found = read(world.regions[name])
    assert found is not None
    return int(found.stock)


@pytest.fixture
def world() -> World:
    """Ten in stock, and eu may take them."""
    made = World("ap", "eu", "us", schema=SCHEMA)
    write(made, "eu", lambda tx: tx.create(Thing(id="t", stock=10)))
    made.settle()
    return made


def test_who_has_no_rights_takes_nothing_and_is_told_who_has(world: World) -> None:
    with pytest.raises(
        RightsShort, match=r"us may take 0 now, and 3 were asked for.*10 in eu"
    ) as it:
        take(world, "us", 3)
    assert (it.value.asked, it.value.here, it.value.elsewhere) == (3, 0, {"eu": 10})
    take(world, "eu", 10)
    with pytest.raises(RightsShort, match="elsewhere there are none"):
        take(world, "eu", 1)
    world.settle()
    assert stock(world, "us") == 0


def test_rights_go_where_they_are_asked_for(world: World) -> None:
    write(world, "us", lambda tx: tx.ask(Thing, "t", "stock", {"eu": 4}))
    world.settle()
    write(world, "eu", lambda tx: tx.hand_over(Thing, "t"))
    # Not twice for one request.
    write(world, "eu", lambda tx: tx.hand_over(Thing, "t"))
    world.settle()
    take(world, "us", 4)
    with pytest.raises(RightsShort) as it:
        take(world, "eu", 7)
    assert it.value.here == 6
    take(world, "eu", 6)
    world.settle()
    assert {stock(world, name) for name in world.regions} == {0}


def test_what_is_added_may_be_taken_where_it_was(world: World) -> None:
    write(world, "us", lambda tx: tx.increment(Thing, "t", "stock", 2))
    take(world, "us", 2)
    with pytest.raises(RightsShort):
        take(world, "us", 1)
    world.settle()
    assert stock(world, "ap") == 10


def test_one_write_may_take_several_times(world: World) -> None:
    def twice(tx: Transaction) -> None:
        tx.increment(Thing, "t", "stock", -6)
        tx.increment(Thing, "t", "stock", 1)
        tx.increment(Thing, "t", "stock", -5)

    write(world, "eu", twice)
    world.settle()
    assert stock(world, "us") == 0


def restart(world: World, region: Region, recovered: Recovered) -> None:
    region.start(recovered, world.now_ms)
    for (source, target), link in world.links.items():
        if region.name in (source, target):
            link.cut()


def kept(region: Region) -> Recovered:
    journal = region.journal
    return Recovered(
        dict(journal.committed),
        dict(journal.vector),
        dict(journal._heads),
        journal.clock.last,
        dict(journal.seen.clocks),
    )


def test_a_new_life_takes_over_what_it_knows_to_be_left(world: World) -> None:
    eu = world.regions["eu"]
    restart(world, eu, kept(eu))
    former = eu.journal.origin
    write(world, "eu", lambda tx: tx.set(Thing(id="t", latest="alive"), "latest"))
    assert eu.journal.origin != former
    with pytest.raises(RightsShort):
        take(world, "eu", 1)
    world.settle()
    take(world, "eu", 10)
    world.settle()
    assert stock(world, "ap") == 0


def test_a_restored_backup_takes_nothing_twice(world: World) -> None:
    eu = world.regions["eu"]
    backup, frames = kept(eu), len(eu.log.frames)
    take(world, "eu", 9)
    world.links["eu", "us"].carry(world.now_ms)
    world.links["eu", "us"].carry(world.now_ms)
    world.regions["us"].commit()
    restart(world, eu, backup)
    del eu.log.frames[frames:]
    # us alone knows of the nine, and ap alone is heard.
    world.now_ms += 100
    for pair in (("ap", "eu"), ("eu", "ap")):
        world.links[pair].connect()
        for _ in range(3):
            world.links[pair].carry(world.now_ms)
            eu.commit()
    with pytest.raises(RightsShort):
        take(world, "eu", 2)
    world.settle()
    with pytest.raises(RightsShort):
        take(world, "eu", 2)
    take(world, "eu", 1)
    world.settle()
    assert {stock(world, name) for name in world.regions} == {0}


def test_a_counter_begins_at_its_bound_or_above(world: World) -> None:
    with pytest.raises(BelowBound, match="begins at -1, and its bound is 0"):
        write(world, "eu", lambda tx: tx.create(Thing(id="other", stock=-1)))


def test_a_region_spends_no_rights_of_another() -> None:
    delta = escrow.encode({Origin("us", 1): Row(made=5)})
    with pytest.raises(errors.ChainBroken, match="another's"):
        escrow.from_delta(Stamp(1, "eu", 1), delta)
