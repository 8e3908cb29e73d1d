"""Each merge rule as services see it: two regions write at once, and then one knows of both."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from google.protobuf.message import Message

from mesh.replication import NotReplicated, Transaction
from mesh.replication.core import cells
from mesh.replication.core.rules.rule import Stamp
from mesh.replication.errors import EtagDamaged
from tests.support.merging import SCHEMA, THING, Thing, read
from tests.support.regions import Region, World


def write(region: Region, world: World, change: Callable[[Transaction], object]) -> None:
    """Writes and commits, a millisecond after what was before."""
    world.now_ms += 1

    def run(tx: Transaction) -> Message:
        change(tx)
        return Thing()

    region.write(run, world.now_ms)
    region.commit()


def setting(*paths: str, **fields: object) -> Callable[[Transaction], None]:
    return lambda tx: tx.set(Thing(id="t", **fields), *paths)


@pytest.fixture
def world() -> World:
    """Two regions that know a thing."""
    made = World("eu", "us", schema=SCHEMA)
    write(made.regions["eu"], made, lambda tx: tx.create(Thing(id="t")))
    made.settle()
    return made


def settled(world: World) -> Message:
    """What both regions read once they know all."""
    world.settle()
    eu, us = (read(world.regions[name]) for name in ("eu", "us"))
    assert eu == us
    assert eu is not None
    assert len({region.journal.digest() for region in world.regions.values()}) == 1
    return eu


def test_the_first_writer_wins(world: World) -> None:
    write(world.regions["us"], world, setting("first", first="us"))
    write(world.regions["eu"], world, setting("first", first="eu"))
    assert settled(world).first == "us"


def test_a_first_value_stays(world: World) -> None:
    eu = world.regions["eu"]
    write(eu, world, setting("first", first="a"))
    write(eu, world, setting("first", first="b"))
    write(eu, world, setting("first"))
    assert settled(world).first == "a"


def test_the_least_value_wins_and_an_unset_one_is_none(world: World) -> None:
    eu, us = world.regions["eu"], world.regions["us"]
    write(eu, world, setting(latest="not the least"))
    assert not read(eu).HasField("least")
    write(eu, world, setting("least", least=3))
    write(us, world, setting("least", least=-2))
    write(eu, world, setting("least", least=9))
    write(eu, world, setting("least"))
    assert settled(world).least == -2
    write(us, world, setting("least", least=0))
    assert settled(world).least == -2


def versions(region: Region) -> list[bytes]:
    """The values of `note` that stand, the one that reads give first."""
    path = SCHEMA.entities[THING].fields["note"].path
    cell = region.journal.committed[THING, "t"].cells[path, cells.KEEP_BOTH]
    return [v.value[2:] for found in cells.both.versions(cell).values() for v in found]


def test_concurrent_values_are_kept_until_someone_decides(world: World) -> None:
    eu, us = world.regions["eu"], world.regions["us"]
    write(eu, world, setting("note", note="eu"))
    write(us, world, setting("note", note="us"))
    assert settled(world).note == "us"
    assert versions(eu) == versions(us) == [b"us", b"eu"]
    # A write of all that differs decides nothing if it looks the same.
    write(eu, world, setting(latest="x", note="us"))
    assert versions(eu) == [b"us", b"eu"]
    write(eu, world, setting("note", note="us"))
    assert settled(world).note == "us"
    assert versions(eu) == versions(us) == [b"us"]


def test_a_cleared_value_stands_against_another(world: World) -> None:
    eu, us = world.regions["eu"], world.regions["us"]
    write(eu, world, setting("note", note="eu"))
    world.settle()
    write(eu, world, setting("note", note="again"))
    write(us, world, setting("note"))
    assert settled(world).note == ""
    assert versions(eu) == [b"", b"again"]


def test_an_etag_names_what_was_read(world: World) -> None:
    eu = world.regions["eu"]
    seen: list[bytes] = []
    write(eu, world, setting("note", note="one"))
    write(eu, world, lambda tx: seen.append(tx.etag(Thing, "t")))
    write(eu, world, setting("note", note="two"))
    write(eu, world, lambda tx: tx.set(Thing(id="t", note="three"), "note", etag=seen[0]))
    # The writer had not read "two": it stands beside its own.
    assert versions(eu) == [b"three", b"two"]
    write(eu, world, lambda tx: tx.add(Thing, "t", "labels", "a"))
    write(eu, world, lambda tx: tx.remove(Thing, "t", "labels", "a", etag=seen[0]))
    assert list(settled(world).labels) == ["a"]
    with pytest.raises(EtagDamaged):
        write(eu, world, lambda tx: tx.set(Thing(id="t"), "note", etag=b"\x01\xff"))


def test_an_etag_of_an_earlier_life_names_nothing(world: World) -> None:
    eu = world.regions["eu"]
    seen: list[bytes] = []
    write(eu, world, setting("note", note="one"))
    write(eu, world, lambda tx: seen.append(tx.etag(Thing, "t")))
    write(eu, world, lambda tx: tx.delete(Thing, "t"))
    write(eu, world, lambda tx: tx.create(Thing(id="t", note="new")))
    write(eu, world, lambda tx: tx.set(Thing(id="t", note="late"), "note", etag=seen[0]))
    assert versions(eu) == [b"late", b"new"]


def test_a_map_merges_by_key(world: World) -> None:
    eu, us = world.regions["eu"], world.regions["us"]
    write(eu, world, lambda tx: tx.put(Thing, "t", "tags", {"a": "1", "b": "1"}))
    world.settle()
    write(eu, world, lambda tx: tx.put(Thing, "t", "tags", {"a": "eu", "c": "eu"}))
    write(us, world, lambda tx: tx.put(Thing, "t", "tags", {"a": "us"}))
    write(us, world, lambda tx: tx.remove(Thing, "t", "tags", "b", "nothing"))
    assert dict(settled(world).tags) == {"a": "us", "c": "eu"}


def test_a_value_wins_over_a_concurrent_removal_of_its_key(world: World) -> None:
    eu, us = world.regions["eu"], world.regions["us"]
    write(eu, world, lambda tx: tx.put(Thing, "t", "tags", {"a": "1"}))
    world.settle()
    write(eu, world, lambda tx: tx.put(Thing, "t", "tags", {"a": "2"}))
    write(us, world, lambda tx: tx.remove(Thing, "t", "tags", "a"))
    assert dict(settled(world).tags) == {"a": "2"}
    write(eu, world, lambda tx: tx.remove(Thing, "t", "tags", "a"))
    assert dict(settled(world).tags) == {}


def test_a_new_thing_has_all_that_its_message_has(world: World) -> None:
    made = Thing(
        id="t", latest="l", first="f", most=3, least=0, count=4, labels=["x"], tags={"": "v"}
    )
    write(world.regions["eu"], world, lambda tx: tx.delete(Thing, "t"))
    write(world.regions["eu"], world, lambda tx: tx.create(made))
    assert settled(world) == made


def test_a_rule_takes_its_own_changes_alone(world: World) -> None:
    with pytest.raises(NotReplicated, match="MAP"):
        write(world.regions["eu"], world, lambda tx: tx.add(Thing, "t", "tags", "x"))
    with pytest.raises(NotReplicated, match="SET"):
        write(world.regions["eu"], world, lambda tx: tx.put(Thing, "t", "labels", {"x": "y"}))


def test_an_entry_without_a_readable_key_stands_alone() -> None:
    stamp = Stamp(1, "eu", 1)
    entry = b"\x4a\x02\x0a\x09"  # it says nine bytes and has none
    cell = cells.registers.from_delta(stamp, cells.registers.delta(None, ("eu", 1), [entry]))
    assert cells.registers.render(9, cell) == entry
