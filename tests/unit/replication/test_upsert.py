"""Many entities written at once: the same as one by one, with another way there."""

from __future__ import annotations

import pytest
from google.protobuf.message import Message
from isthmus.channels.v1 import channel_pb2

from mesh.replication.core import entities, rendering
from mesh.replication.core.shapes import DEEPEST, Packed
from mesh.replication.errors import NotReplicated
from tests.support.items import ITEM, NAMES, SCHEMA, Item, item_class
from tests.support.regions import Region

NewerItem = item_class(*NAMES, "fourth")


def region(name: str = "eu", peer: str = "us") -> Region:
    return Region(name, [peer], schema=SCHEMA)


def write(here: Region, *items: Message, paths: tuple[str, ...] = (), now_ms: int = 0) -> None:
    here.write(lambda tx: tx.upsert(items, *paths) or items[0], now_ms)
    here.commit()


def read(here: Region, key: str) -> Message:
    state = here.journal.committed[ITEM, key]
    schema = SCHEMA.entities[ITEM]
    return Item.FromString(rendering.render(state, schema.rules, schema.key_field(key)))


def test_it_creates_and_replaces() -> None:
    here = region()
    write(here, Item(id="a", first="1", second="2"), Item(id="b"))
    write(here, Item(id="a", second="3", third="4"))
    assert read(here, "a") == Item(id="a", second="3", third="4")
    assert read(here, "b") == Item(id="b")


def test_named_fields_alone_are_written() -> None:
    here = region()
    write(here, Item(id="a", first="1", second="2", third="3"))
    write(here, Item(id="a", first="x", second="y"), paths=("second", "third"))
    assert read(here, "a") == Item(id="a", first="1", second="y")
    write(here, Item(id="b", first="x", second="y"), paths=("second",))
    assert read(here, "b") == Item(id="b", second="y")


def test_the_last_one_of_a_write_counts() -> None:
    here = region()
    write(here, Item(id="a", first="1"), Item(id="a", first="2"))
    assert read(here, "a") == Item(id="a", first="2")
    assert here.journal.vector[here.journal.origin] == 2


def test_what_a_write_changed_before_is_seen_after() -> None:
    here = region()

    def change(tx):
        tx.create(Item(id="a", first="1"))
        tx.upsert([Item(id="a", second="2")], "second")
        tx.set(Item(id="a", third="3"), "third")
        return tx.get(Item, "a")

    expected = Item(id="a", first="1", second="2", third="3")
    assert here.write(change, 0) == expected
    here.commit()
    assert read(here, "a") == expected


def test_a_deleted_entity_starts_its_next_generation() -> None:
    here = region()
    write(here, Item(id="a", first="1"))
    here.write(lambda tx: tx.delete(Item, "a") or Item(), 1)
    here.commit()
    write(here, Item(id="a", second="2"), paths=("second",), now_ms=2)
    assert read(here, "a") == Item(id="a", second="2")
    assert here.journal.committed[ITEM, "a"].generation == 2


def test_it_is_the_same_as_one_by_one() -> None:
    bulk, single = region(), region()
    for number in range(3 * DEEPEST):
        names = NAMES[number % 3 : number % 3 + 2]
        item = Item(id="a", **{name: f"{name}{number}" for name in names})
        write(bulk, item, paths=names, now_ms=number)
        if number:
            single.write(lambda tx, item=item, names=names: tx.set(item, *names) or item, number)
        else:
            single.write(lambda tx, item=item: tx.create(item) or item, number)
        single.commit()
        one, other = (here.journal.committed[ITEM, "a"] for here in (bulk, single))
        assert entities.encode(one) == entities.encode(other)
        assert entities.decode(entities.encode(one)) == one
        if number == 2:
            assert isinstance(one.cells, Packed) and one.cells.below is not None


def test_fields_of_a_newer_contract_are_not_written() -> None:
    here = region()
    item = Item.FromString(NewerItem(id="a", first="1", fourth="4").SerializeToString())
    write(here, item)
    frame = here.log.frames[0]
    assert b"4" not in frame.body.replace(b"operator", b"")
    assert read(here, "a") == Item(id="a", first="1")


def test_entities_with_other_rules_are_written_one_by_one() -> None:
    here = Region("eu", ["us"])
    channel = channel_pb2.Channel(channel_id="c1", title="news", labels=["live"])
    here.write(lambda tx: tx.upsert([channel]) or channel, 0)
    channel.title = "sport"
    here.write(lambda tx: tx.upsert([channel]) or channel, 1)
    here.commit()
    assert here.get("c1") == channel


@pytest.mark.parametrize("paths", [(), ("first",)])
def test_a_message_without_a_key_is_refused(paths: tuple[str, ...]) -> None:
    here = region()
    with pytest.raises(NotReplicated, match="an entity needs its key"):
        here.write(lambda tx: tx.upsert([Item(first="1")], *paths), 0)
    with pytest.raises(NotReplicated, match="is not"):
        here.write(lambda tx: tx.upsert([Item(id="a"), channel_pb2.Channel()], *paths), 0)
