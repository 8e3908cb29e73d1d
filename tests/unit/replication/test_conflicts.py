"""What merging decides between concurrent values is noted, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from google.protobuf.message import Message

from mesh.replication import Transaction
from mesh.replication.core import cells, etags
from mesh.replication.core.batches import Batch, Recovered, Visible
from mesh.replication.core.conflicts import DELETED, Conflict
from mesh.replication.core.journal import Journal
from tests.support.merging import SCHEMA, THING, Thing
from tests.support.regions import Region, World


class Noting(World):
    """A world that collects what each region notes."""

    def __init__(self, *names: str) -> None:
        super().__init__(*names, schema=SCHEMA)
        self.noted: dict[str, list[Conflict]] = {name: [] for name in names}
        for region in self.regions.values():
            region.journal.stored = self._listening(region.journal)  # type: ignore[method-assign] # seen by the test
        self.write("eu", lambda tx: tx.create(Thing(id="t")))
        self.settle()

    def _listening(self, journal: Journal) -> Callable[[Batch], Visible]:
        stored = journal.stored

        def listen(batch: Batch) -> Visible:
            self.noted[journal.region] += batch.merged.conflicts
            return stored(batch)

        return listen

    def write(
        self, name: str, change: Callable[[Transaction], object], *, now: bool = True
    ) -> None:
        self.now_ms += 1

        def run(tx: Transaction) -> Message:
            change(tx)
            return Thing()

        self.regions[name].write(run, self.now_ms)
        if now:
            self.regions[name].commit()

    def values(self, name: str, field: str) -> list[tuple[object, object]]:
        """What a region noted of a field, as pairs of what is read and what stood against it."""
        path = SCHEMA.entities[THING].fields[field].path

        def value(version: cells.Version) -> object:
            message = Thing.FromString(version.value)
            return getattr(message, field)

        return [(value(c.read), value(c.other)) for c in self.noted[name] if c.path == path]


@pytest.fixture
def world() -> Noting:
    return Noting("ap", "eu", "us")


def setting(*paths: str, **fields: object) -> Callable[[Transaction], None]:
    return lambda tx: tx.set(Thing(id="t", **fields), *paths)


def test_one_after_the_other_is_no_conflict(world: Noting) -> None:
    for name in ("eu", "us", "ap", "us"):
        fields = {"latest": name, "note": name, "first": name}
        world.write(name, setting(*fields, **fields))
        world.write(name, setting("latest", latest=f"{name} again"))
        world.settle()
    world.write("ap", lambda tx: tx.delete(Thing, "t"))
    world.settle()
    world.write("eu", lambda tx: tx.create(Thing(id="t", latest="new")))
    world.settle()
    assert not any(world.noted.values())


def test_the_loser_of_two_writers_is_noted_with_both_stamps(world: Noting) -> None:
    world.write("eu", setting("latest", latest="eu"))
    world.write("us", setting("latest", latest="us"))
    world.settle()
    for name in ("ap", "eu", "us"):
        assert world.values(name, "latest") == [("us", "eu")]
        (found,) = world.noted[name]
        assert found.entity == (THING, "t")
        assert found.rule == cells.LATEST
        assert found.read.stamp is not None and found.read.stamp.region == "us"
        assert found.other.stamp is not None and found.other.stamp.region == "eu"


def test_the_same_value_written_twice_is_no_conflict(world: Noting) -> None:
    world.write("eu", setting("latest", latest="same"))
    world.write("us", setting("latest", latest="same"))
    world.settle()
    assert not any(world.noted.values())


def test_what_lost_to_the_first_is_noted(world: Noting) -> None:
    world.write("us", setting("first", first="us"))
    world.write("eu", setting("first", first="eu"))
    world.settle()
    assert world.values("ap", "first") == [("us", "eu")]


def test_what_a_greater_value_beat_unseen_is_noted_with_both_stamps(world: Noting) -> None:
    world.write("us", setting("most", most=9))
    world.write("eu", setting("most", most=4))
    world.settle()
    for name in world.regions:
        assert world.values(name, "most") == [(9, 4)]
        (noted,) = world.noted[name]
        assert noted.read.stamp is not None and noted.read.stamp.region == "us"
        assert noted.other.stamp is not None and noted.other.stamp.region == "eu"


def test_a_greater_value_of_who_saw_the_other_is_no_conflict(world: Noting) -> None:
    world.write("us", setting("most", most=4))
    world.settle()
    world.write("eu", setting("most", most=9))
    world.settle()
    assert not any(world.noted.values())


def test_what_an_etag_did_not_name_is_noted_in_a_map(world: Noting) -> None:
    world.write("eu", lambda tx: tx.put(Thing, "t", "tags", {"k": "old"}))
    world.settle()
    etag = etags.encode(world.regions["eu"].journal.committed[THING, "t"])
    world.write("eu", lambda tx: tx.put(Thing, "t", "tags", {"k": "new"}))
    world.settle()
    world.write("eu", lambda tx: tx.put(Thing, "t", "tags", {"k": "form"}, etag=etag))
    world.settle()
    for name in world.regions:
        (noted,) = world.noted[name]
        read, other = (Thing.FromString(each.value).tags for each in (noted.read, noted.other))
        assert read == {"k": "form"} and other == {"k": "new"}


def test_both_kept_values_are_noted(world: Noting) -> None:
    world.write("us", setting("note", note="us"))
    world.write("eu", setting("note", note="eu"))
    world.settle()
    assert world.values("ap", "note") == [("eu", "us")]


def test_concurrent_entries_of_one_key_are_noted(world: Noting) -> None:
    world.write("us", lambda tx: tx.put(Thing, "t", "tags", {"a": "us", "b": "us"}))
    world.write("eu", lambda tx: tx.put(Thing, "t", "tags", {"a": "eu", "c": "eu"}))
    world.settle()
    assert [[dict(one), dict(two)] for one, two in world.values("ap", "tags")] == [
        [{"a": "eu"}, {"a": "us"}]
    ]


@pytest.mark.parametrize("later", ["delete", "update"])
def test_what_a_delete_ends_unseen_is_noted(world: Noting, later: str) -> None:
    def delete() -> None:
        world.write("us", lambda tx: tx.delete(Thing, "t"))

    if later == "update":
        delete()
    world.write("eu", setting("latest", latest="lost"))
    if later == "delete":
        delete()
    world.settle()
    for name in ("eu", "us"):
        (found,) = world.noted[name]
        assert (found.rule, found.path, found.read.value) == (DELETED, b"", b"")
        assert Thing.FromString(found.other.value).latest == "lost"


def test_a_write_behind_a_commit_that_brings_another_has_not_seen_it(world: Noting) -> None:
    # The frame that holds a write depends on what the write saw, not on what came meanwhile.
    eu = world.regions["eu"]
    world.write("us", setting("latest", latest="us"))
    world.links["us", "eu"].carry(world.now_ms)
    world.links["us", "eu"].carry(world.now_ms)
    eu.take()
    world.write("eu", setting("latest", latest="eu"), now=False)
    eu.commit()
    world.write("eu", setting("first", first="afterwards"), now=False)
    eu.commit()
    eu.commit()
    world.settle()
    for name in ("ap", "eu", "us"):
        assert world.values(name, "latest") == [("eu", "us")]
    seen = [frame for frame in eu.log.frames if frame.origin.region == "eu"]
    assert len(seen) == 3  # the creation, and one frame for each of the two that were seen


def test_what_a_region_has_seen_survives_its_restart(world: Noting) -> None:
    eu: Region = world.regions["eu"]
    world.write("us", setting("latest", latest="us"))
    world.settle()
    old = eu.journal
    eu.start(
        Recovered(
            dict(old.committed), dict(old.vector), dict(old._heads), old.clock.last, old.seen.clocks
        ),
        world.now_ms,
    )
    for link in world.links.values():
        link.cut()
    world.write("us", setting("first", first="meanwhile"))
    world.write("eu", setting("latest", latest="eu"))
    world.settle()
    assert not any(world.noted.values())
