"""Digests by ranges, and comparing two regions while both go on."""

from __future__ import annotations

import pytest
from isthmus.channels.v1 import channel_pb2
from isthmus.replication.v1 import digest_pb2

from mesh.replication import Transaction
from mesh.replication.core import answers as answering
from mesh.replication.core import digest as digesting
from mesh.replication.core.answers import Answers
from mesh.replication.core.budget import SLICE_NS, Budget
from mesh.replication.core.clocks import Vector, covers
from mesh.replication.core.damage import DIVERGENCE, MEMORY
from mesh.replication.core.digest import BUCKETS, Digest, bucket_of
from mesh.replication.core.entities import EntityKey, EntityState, fingerprint
from mesh.replication.core.recent import Recent
from tests.support.regions import CHANNEL, Region, World

Channel = channel_pb2.Channel


def put(key: str, title: str):
    def change(tx: Transaction) -> Channel:
        message = Channel(channel_id=key, title=title)
        if tx.get(Channel, key) is None:
            tx.create(message)
        else:
            tx.set(message, "title")
        return message

    return change


def populated(entities: int, *names: str) -> World:
    """Regions that hold the same entities."""
    world = World(*names)
    for number in range(entities):
        world.regions[names[0]].write(put(f"c{number}", "first"), world.now_ms)
    world.settle()
    return world


def alter(region: Region, key: str, *, noticed: bool) -> None:
    """Changes a state behind the region's back; `noticed` as a bug would that hashes it too."""
    entity = (CHANNEL, key)
    state = region.journal.committed[entity]
    cells = {cell: (*value[:3], b"\x12\x01!") for cell, value in state.cells.items()}
    region.journal.committed[entity] = state._replace(cells=cells)
    if noticed:
        region.journal.integrity.digest.touch((entity,))


def named(region: Region) -> dict[str, int]:
    return {
        damage.entity[1]: damage.kind
        for damage in region.journal.integrity.damages.open(from_peers=True)
        if damage.entity is not None
    }


def equal_up_to(region: Region, peer: str) -> Vector | None:
    return region.journal.integrity.with_peer(peer).equal_up_to


def test_buckets_are_the_same_in_every_version() -> None:
    assert bucket_of(("isthmus.channels.v1.Channel", "news")) == 59249
    assert len({bucket_of((CHANNEL, f"c{n}")) for n in range(1000)}) > 980


def test_ranges_add_up_to_the_whole_through_changes_and_ends() -> None:
    states: dict[EntityKey, EntityState] = {}
    world = populated(40, "eu")
    kept = Digest(states)
    for at, (entity, state) in enumerate(world.regions["eu"].journal.committed.items()):
        states[entity] = state
        kept.touch((entity,))
        if at % 5 == 4:
            kept.part(entity)
            del states[entity]
            kept.forget((entity,))
    assert kept.value() == Digest(states).value() and len(kept) == len(states)
    total, first = 0, 0
    while first < BUCKETS:
        end = kept.reach(first, 7)
        assert 0 < sum(1 for _ in kept.within(first, end)) <= 8
        total += int.from_bytes(kept.range_sum(first, end), "big")
        first = end
    assert (total % (1 << 256)).to_bytes(32, "big") == kept.value()


def test_known_fingerprints_are_not_hashed_again() -> None:
    states = populated(3, "eu").regions["eu"].journal.committed
    anew = Digest(states)
    known = {entity: anew.part(entity) for entity in states}
    again = Digest(states, known)
    assert not again.stale and again.value() == anew.value()


def test_what_a_region_has_beyond_a_vector_is_known_for_the_last_commits() -> None:
    region = populated(1, "eu").regions["eu"]
    recent = region.journal.integrity.recent
    before = dict(region.journal.vector)
    region.write(put("c0", "second"), 1)
    region.commit()
    assert recent.beyond(before) == {(CHANNEL, "c0")}
    assert recent.beyond(region.journal.vector) == set()
    assert Recent(region.journal.vector).beyond(before) is None


@pytest.mark.parametrize("entities", [0, 3, 700])
def test_regions_at_rest_prove_each_other_equal(entities: int) -> None:
    world = populated(entities, "eu", "us")
    world.run(4000)
    for name, peer in (("eu", "us"), ("us", "eu")):
        region = world.regions[name]
        assert equal_up_to(region, peer) == region.journal.vector
        status = region.journal.integrity.with_peer(peer).status(1_000_000 + world.now_ms)
        assert status.ranges_compared and not status.ranges_differed
        assert status.proven.ToMilliseconds() <= 1_000_000 + world.now_ms


def test_the_proof_follows_while_both_write_all_the_time() -> None:
    world = populated(200, "eu", "us")
    world.run(3000)
    eu, us = world.regions.values()
    for step in range(200):
        # Never at one vector: each has something that the other has not.
        eu.write(put(f"c{step % 200}", f"eu{step}"), world.now_ms)
        us.write(put(f"c{(step * 7) % 200}", f"us{step}"), world.now_ms)
        at = {name: dict(region.journal.vector) for name, region in world.regions.items()}
        world.run(100)
        if step == 100:
            middle = at
    for region, peer in ((eu, "us"), (us, "eu")):
        found = equal_up_to(region, peer)
        assert found is not None and covers(found, middle[region.name])
        assert not region.journal.integrity.damages.found


def test_an_entity_that_never_rests_is_compared_by_its_states() -> None:
    world = populated(20, "eu", "us")
    world.run(3000)
    eu, us = world.regions.values()
    for step in range(150):
        eu.write(put("c0", f"eu{step}"), world.now_ms)
        us.write(put("c0", f"us{step}"), world.now_ms)
        if step == 60:
            middle = dict(us.journal.vector)
        world.run(100)
    assert covers(equal_up_to(us, "eu") or {}, middle)
    # A state that no merge of the changes gives is found all the same.
    entity = (CHANNEL, "c0")
    state = us.journal.committed[entity]
    us.journal.committed[entity] = state._replace(cells={})
    us.journal.integrity.digest.touch((entity,))
    for step in range(100):
        eu.write(put("c1", f"eu{step}"), world.now_ms)
        world.run(100)
        if named(us):
            break
    assert named(us) == {"c0": DIVERGENCE}


@pytest.mark.parametrize("entities", [5, 700])
def test_one_entity_that_differs_is_named(entities: int) -> None:
    world = populated(entities, "eu", "us")
    alter(world.regions["us"], "c3", noticed=True)
    world.run(6000)
    for region in world.regions.values():
        assert named(region) == {"c3": DIVERGENCE}
    assert world.regions["eu"].journal.integrity.with_peer("us").differed > 0


def test_an_entity_that_is_missing_is_named() -> None:
    world = populated(5, "eu", "us")
    us = world.regions["us"]
    del us.journal.committed[CHANNEL, "c3"]
    us.journal.integrity.digest.forget(((CHANNEL, "c3"),))
    world.run(6000)
    assert named(us) == {"c3": DIVERGENCE}


def test_scrubbing_names_what_is_not_what_was_hashed() -> None:
    region = populated(50, "eu").regions["eu"]
    integrity = region.journal.integrity
    integrity.hash_changed(0)
    integrity.scrub(0)
    assert integrity.passes == 1 and not integrity.damages.found
    alter(region, "c7", noticed=False)
    integrity.scrub(100)
    assert not integrity.damages.found, "passes follow one another after a while"
    integrity.scrub(60_000)
    assert named(region) == {"c7": MEMORY} and integrity.damages.found == 1
    integrity.scrub(120_000)
    assert integrity.damages.found == 1, "what is known is not counted again"


def test_hashing_stays_within_its_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    region = populated(2000, "eu").regions["eu"]
    now = 0

    def slow(entity: EntityKey, state: EntityState) -> int:
        nonlocal now
        now += 10_000
        return fingerprint(entity, state)

    monkeypatch.setattr(digesting, "fingerprint", slow)
    integrity = region.journal.integrity
    integrity.scrubbing = Budget(0.02, lambda: now)
    spent, slices = 0, 0
    while integrity.passes == 0:
        before = now
        integrity.hash_changed(0)
        integrity.scrub(0)
        assert now - before <= SLICE_NS + 50_000
        spent += now - before
        now += 50_000_000
        slices += 1
    assert spent < 0.021 * now and slices > 10


def ask(region: Region, inquiry: digest_pb2.Inquiry) -> digest_pb2.Answer:
    answers = Answers(region.journal, region.log)
    answers.ask(inquiry)
    answer = answers.next(0)
    assert answer is not None and answers.next(0) is None
    return answer


def test_answers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    region = populated(2000, "eu").regions["eu"]
    everything = digest_pb2.BucketRange(first=0, end=BUCKETS)
    answer = ask(region, digest_pb2.Inquiry(id=7, ranges=[everything], listings=[everything]))
    assert answer.id == 7 and answer.ranges[0].range.end < BUCKETS
    assert len(answer.listings[0].entities) <= answering.MOST_LISTED
    monkeypatch.setattr(answering, "_ANSWER_BYTES", 100)
    names = [digest_pb2.EntityName(type=CHANNEL, key=f"c{n}") for n in range(50)]
    assert 0 < len(ask(region, digest_pb2.Inquiry(entities=names)).entities) < 10


def test_a_region_gives_no_copy_of_what_it_knows_to_be_damaged() -> None:
    region = populated(3, "eu").regions["eu"]
    region.journal.integrity.hash_changed(0)
    alter(region, "c1", noticed=False)
    names = [digest_pb2.EntityName(type=CHANNEL, key=key) for key in ("c0", "c1", "none")]
    good, bad, none = ask(region, digest_pb2.Inquiry(entities=names)).entities
    assert good.state and not good.damaged
    assert bad.damaged and not bad.state
    assert not none.damaged and not none.state
    assert named(region) == {"c1": MEMORY}
