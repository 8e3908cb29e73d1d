"""Random executions of three regions over every merge rule, with restarts and restored backups."""

from __future__ import annotations

from contextlib import suppress

from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.replication import AlreadyExists, NotFound, Transaction
from mesh.replication.core import cells
from mesh.replication.core.batches import Recovered
from mesh.replication.core.rules import escrow
from mesh.replication.errors import RightsShort
from tests.support.merging import SCHEMA, THING, Thing, read
from tests.support.regions import Region, World

NAMES = ("ap", "eu", "us")
BEGUN = 6

names = st.sampled_from(NAMES)
small = st.integers(0, 3)
pairs = st.tuples(names, names).filter(lambda pair: pair[0] != pair[1])
steps = st.one_of(
    st.tuples(st.just("write"), names, st.integers(0, 11), small),
    st.tuples(st.just("write"), names, st.integers(6, 9), small),
    st.tuples(st.just("commit"), names, st.sampled_from([True, True, True, False])),
    st.tuples(st.just("carry"), pairs, small),
    st.tuples(st.just("pull"), pairs),
    st.tuples(st.just("cut"), pairs),
    st.tuples(st.just("connect"), pairs),
    st.tuples(st.just("save"), names),
    st.tuples(st.just("restore"), names),
    st.tuples(st.just("restart"), names),
    st.tuples(st.just("lapse"), pairs, small, small),
)


def change(tx: Transaction, act: int, value: int) -> Message:
    """One of everything that a service may do."""
    message = Thing(id="t", latest=f"l{value}", first=f"f{value}", most=value, least=value - 1)
    message.note = f"n{value}" if value else ""
    others = {name: value for name in NAMES if name != tx.region}
    with suppress(AlreadyExists, NotFound, RightsShort):
        if act == 0:
            tx.set(message, "latest", "first", "most", "least")
        elif act == 1:
            tx.set(message, "note")
        elif act == 2:
            tx.put(Thing, "t", "tags", {f"k{value}": tx.region})
        elif act == 3:
            tx.remove(Thing, "t", "tags", f"k{value}")
        elif act == 4:
            tx.add(Thing, "t", "labels", f"l{value}")
        elif act == 5:
            tx.remove(Thing, "t", "labels", f"l{value}")
        elif act in (6, 7):
            tx.increment(Thing, "t", "stock", -value)
        elif act == 8:
            tx.ask(Thing, "t", "stock", others)
        elif act == 9:
            tx.hand_over(Thing, "t")
        elif act == 10:
            tx.increment(Thing, "t", "stock", value // 3)
        elif value == 3:
            tx.delete(Thing, "t")
            tx.create(Thing(id="t", stock=BEGUN, note="again"))
    return message


def saved(region: Region) -> tuple[Recovered, int]:
    """A region as it lies on its disk, and how long its journal is."""
    journal = region.journal
    recovered = Recovered(
        dict(journal.committed),
        dict(journal.vector),
        dict(journal._heads),
        journal.clock.last,
        dict(journal.seen.clocks),
    )
    return recovered, len(region.log.frames)


def restart(world: World, region: Region, recovered: Recovered, length: int) -> None:
    for (source, target), link in world.links.items():
        if region.name in (source, target):
            link.cut()
    del region.log.frames[length:]
    region._batch = None
    region.start(recovered, world.now_ms)


def restore(world: World, name: str, backup: tuple[Recovered, int]) -> None:
    recovered, length = backup
    copy = Recovered(
        dict(recovered.states),
        dict(recovered.vector),
        dict(recovered.heads),
        recovered.clock,
        dict(recovered.clocks),
    )
    restart(world, world.regions[name], copy, length)


def write(world: World, name: str, act: int, value: int) -> None:
    world.regions[name].write(lambda tx: change(tx, act, value), world.now_ms)


def check(world: World) -> None:
    """No region ever reads a total below the bound."""
    for region in world.regions.values():
        found = read(region)
        assert found is None or found.stock >= 0


def run(found: list[tuple[object, ...]]) -> World:
    world = World(*NAMES, schema=SCHEMA)
    world.regions["ap"].skew_ms = 20_000

    def create(tx: Transaction) -> Message:
        tx.create(Thing(id="t", stock=BEGUN))
        return Thing()

    world.regions["us"].write(create, world.now_ms)
    world.settle()
    backups = {name: saved(region) for name, region in world.regions.items()}
    for step in found:
        world.now_ms += 7
        match step:
            case "write", str(name), int(act), int(value):
                write(world, name, act, value)
            case "commit", str(name), bool(works):
                world.regions[name].commit(works)
            case "carry", (str(a), str(b)), int(most):
                world.links[a, b].carry(world.now_ms, 1 + most)
            case "pull", (str(a), str(b)):
                world.regions[a].commit()
                world.links[a, b].carry(world.now_ms)
                world.links[a, b].carry(world.now_ms)
                world.regions[b].commit()
            case "cut", (str(a), str(b)):
                world.links[a, b].cut()
            case "connect", (str(a), str(b)):
                world.links[a, b].connect()
            case "save", str(name):
                backups[name] = saved(world.regions[name])
            case "restart", str(name):
                restart(world, world.regions[name], *saved(world.regions[name]))
            case "restore", str(name):
                restore(world, name, backups[name])
            case "lapse", (str(a), str(b)), int(spent), int(more):
                # What one region took and another heard of, the first has forgotten.
                write(world, a, 6, spent)
                world.regions[a].commit()
                world.links[a, b].connect()
                for _ in range(3):
                    world.links[a, b].carry(world.now_ms)
                world.regions[b].commit()
                restore(world, a, backups[a])
                write(world, a, 6, more)
        check(world)
    return world


@settings(max_examples=80)
@given(st.lists(steps, min_size=20, max_size=90))
def test_regions_converge_under_every_rule(found: list[tuple[object, ...]]) -> None:
    world = run(found)
    world.settle()
    check(world)
    regions = list(world.regions.values())
    assert {link.fault for link in world.links.values()} == {None}
    assert len({region.journal.digest() for region in regions}) == 1
    assert len({str(read(region)) for region in regions}) == 1
    # All that is left may be taken by someone.
    state = regions[0].journal.committed[THING, "t"]
    path = SCHEMA.entities[THING].fields["stock"].path
    rows = state.cells.get((path, cells.BOUNDED_COUNTER), {})
    assert all(escrow.rights(rows, origin) >= 0 for origin in rows)
    assert sum(escrow.by_region(rows).values()) == cells.escrow.total(rows)
