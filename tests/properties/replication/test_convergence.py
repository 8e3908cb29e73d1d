"""Random executions of three regions through the pure state machines."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from isthmus.channels.v1 import channel_pb2

from mesh.replication import AlreadyExists, NotFound, Transaction
from mesh.replication.core import entities
from mesh.replication.core.cells import LATEST
from mesh.replication.core.digest import Digest
from mesh.replication.core.frames import parse
from tests.support.regions import CHANNEL, Region, World

Channel = channel_pb2.Channel
NAMES = ("ap", "eu", "us")

names = st.sampled_from(NAMES)
keys = st.sampled_from(["c1", "c2"])
small = st.integers(0, 3)
links = st.tuples(names, names).filter(lambda pair: pair[0] != pair[1])
steps = st.one_of(
    st.tuples(st.just("write"), names, keys, st.integers(0, 7), small),
    st.tuples(st.just("write"), names, keys, st.integers(0, 7), small),
    st.tuples(st.just("commit"), names, st.sampled_from([True, True, True, False])),
    st.tuples(st.just("take"), names),
    st.tuples(st.just("carry"), links, small, st.booleans()),
    st.tuples(st.just("pull"), links),
    st.tuples(st.just("cut"), links),
    st.tuples(st.just("connect"), links),
)


def change(tx: Transaction, key: str, act: int, value: int) -> Channel:
    """One of everything that a service may do, two entities in one write among it."""
    message = Channel(channel_id=key, title=f"t{value}")
    message.profile.width = value
    try:
        if act == 0:
            tx.create(Channel(channel_id=key, title="new", labels=["l0"], takeovers=1))
        elif act == 1:
            tx.set(message, "title", "profile")
        elif act == 2:
            tx.add(Channel, key, "labels", f"l{value}")
        elif act == 3:
            tx.remove(Channel, key, "labels", f"l{value}")
        elif act == 4:
            tx.increment(Channel, key, "takeovers", value - 1)
        elif act == 5:
            message.assignment.epoch = value
            message.assignment.region = tx.region
            tx.set(message, "assignment")
        elif act == 6:
            tx.delete(Channel, key)
        else:
            for each in ("c1", "c2"):
                if tx.get(Channel, each) is not None:
                    tx.increment(Channel, each, "takeovers", 10)
    except (AlreadyExists, NotFound):
        pass  # what a service answers its caller with
    return message


def replay(region: Region) -> bytes:
    """The digest of a state made anew from the region's journal alone."""
    states: dict[entities.EntityKey, entities.EntityState] = {}
    for stored in region.log.frames:
        for each in parse(stored.body, stored.hash).changes:
            states[each.entity] = entities.apply(states.get(each.entity), each)
    return Digest(states).value()


def run(found: list[tuple[object, ...]]) -> World:
    """Takes the steps, in a world where everyone knows both channels and clocks differ."""
    world = World(*NAMES)
    world.regions["ap"].skew_ms = 20_000
    world.regions["eu"].skew_ms = -20_000
    for key in ("c1", "c2"):
        world.regions["us"].write(lambda tx: change(tx, key, 0, 0), world.now_ms)  # noqa: B023 # runs at once
    world.settle()
    for step in found:
        world.now_ms += 7
        match step:
            case "write", str(name), str(key), int(act), int(value):
                write(world.regions[name], key, act, value, world.now_ms)
            case "commit", str(name), bool(works):
                world.regions[name].commit(works)
            case "take", str(name):
                world.regions[name].take()
            case "carry", (str(a), str(b)), int(most), bool(twice):
                world.links[a, b].carry(world.now_ms, 1 + most, twice=twice)
            case "pull", (str(a), str(b)):
                # A round trip at once, and what it brought is being stored.
                world.regions[a].commit()
                world.links[a, b].carry(world.now_ms)
                world.links[a, b].carry(world.now_ms)
                world.regions[b].take()
            case "cut", (str(a), str(b)):
                world.links[a, b].cut()
            case "connect", (str(a), str(b)):
                world.links[a, b].connect()
    return world


def write(region: Region, key: str, act: int, value: int, now_ms: int) -> None:
    """Writes, and sees its own write at once, whatever the clocks say."""
    before = region.journal.look((CHANNEL, key))
    region.write(lambda tx: change(tx, key, act, value), now_ms)
    after = region.journal.look((CHANNEL, key))
    if act == 1 and before is not None and not before.deleted:
        assert after is not None and after.cells[b"\x02", LATEST][3] == b"\x12\x02t%d" % value


@settings(max_examples=60)
@given(st.lists(steps, min_size=20, max_size=80))
def test_regions_converge(found: list[tuple[object, ...]]) -> None:
    world = run(found)
    world.settle()
    regions = list(world.regions.values())
    assert {link.fault for link in world.links.values()} == {None}
    assert len({region.journal.digest() for region in regions}) == 1
    assert len({replay(region) for region in regions}) == 1
    assert replay(regions[0]) == regions[0].journal.digest()
    assert not any(region.journal.integrity.damages.found for region in regions)
    for key in ("c1", "c2"):
        assert regions[0].get(key) == regions[1].get(key) == regions[2].get(key)


@settings(max_examples=60)
@given(st.lists(steps, min_size=10, max_size=40))
def test_what_writers_see_is_what_readers_get(found: list[tuple[object, ...]]) -> None:
    world = run(found)
    for region in world.regions.values():
        # What is in flight is stored and what waits forgotten: only local writes are left.
        region.commit()
        region.journal.arrivals.waiting.clear()
        seen = {key: region.journal.look((CHANNEL, key)) for key in ("c1", "c2")}
        region.commit()
        for key, state in seen.items():
            assert region.journal.committed.get((CHANNEL, key)) == state


def test_counters_add_up_over_every_region() -> None:
    world = World(*NAMES)
    world.regions["eu"].write(lambda tx: change(tx, "c1", 0, 0), 1)
    world.settle()
    for region in world.regions.values():
        for _ in range(5):
            region.write(lambda tx: change(tx, "c1", 4, 3), world.now_ms)
            region.commit()
    world.settle()
    channel = world.regions["ap"].get("c1")
    assert channel is not None and channel.takeovers == 1 + 3 * 5 * 2
