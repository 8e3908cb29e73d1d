"""Damage in memory: found, named, counted, and repaired from peers."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from isthmus.channels.v1 import channel_pb2

from mesh.replication import Transaction
from mesh.replication.core.damage import DIVERGENCE, MEMORY, Damage
from mesh.replication.core.entities import EntityState, decode, encode
from mesh.replication.core.errors import ReplicationError
from mesh.replication.core.repair import LOST, chosen
from tests.support.regions import CHANNEL, Region, World

Channel = channel_pb2.Channel
ENTITY = (CHANNEL, "c1")


def create(tx: Transaction) -> Channel:
    message = Channel(channel_id="c1", title="one", labels=["a", "b"], takeovers=3)
    message.profile.width = 1920
    message.assignment.epoch, message.assignment.region = 1, "eu"
    tx.create(message)
    return message


def retitle(title: str):
    def change(tx: Transaction) -> Channel:
        tx.set(Channel(channel_id="c1", title=title), "title")
        return Channel()

    return change


def world(*names: str) -> World:
    found = World(*names)
    found.regions[names[0]].write(create, 0)
    found.settle()
    for region in found.regions.values():
        region.tend(0)
    return found


def run(found: World, milliseconds: int, *cut: str) -> None:
    for _ in range(milliseconds // 100):
        found.run(100, *cut)
        for region in found.regions.values():
            region.tend(found.now_ms)


def damage(region: Region, state: EntityState, *, hashed: bool = False) -> None:
    region.journal.committed[ENTITY] = state
    if hashed:
        region.journal.integrity.digest.touch((ENTITY,))


def canonical(found: World) -> set[bytes]:
    return {encode(region.journal.committed[ENTITY]) for region in found.regions.values()}


def kinds(region: Region) -> list[int]:
    return [each.kind for each in region.journal.integrity.damages.status()]


def altered(state: EntityState, at: int, by: int) -> EntityState | None:
    """A state with one byte of it changed, if that is one."""
    data = bytearray(encode(state))
    data[at % len(data)] ^= by
    try:
        found = decode(bytes(data))
        return found if encode(found) != encode(state) else None
    except (ReplicationError, ValueError, IndexError, KeyError):
        return None


@settings(max_examples=150)
@given(at=st.integers(0, 1000), by=st.integers(1, 255))
def test_any_byte_of_a_state_in_memory_is_found_named_counted_and_repaired(
    at: int, by: int
) -> None:
    found = world("eu", "us")
    us = found.regions["us"]
    before = us.journal.committed[ENTITY]
    wrong = altered(before, at, by)
    if wrong is None:
        return
    damage(us, wrong)
    run(found, 12_000)
    assert canonical(found) == {encode(before)}
    damages = us.journal.integrity.damages
    (named,) = damages.status()
    assert (named.kind, named.entity.key) == (MEMORY, "c1") and named.HasField("repaired")
    assert (damages.found, damages.repaired) == (1, 1)
    assert found.regions["eu"].journal.integrity.damages.found == 0
    (shown,) = us.repaired
    assert (shown.before[ENTITY], shown.after[ENTITY]) == (wrong, before)
    assert us.journal.digest() == found.regions["eu"].journal.digest()


def test_what_only_this_region_has_is_in_the_repaired_state() -> None:
    found = world("eu", "us")
    us = found.regions["us"]
    for number in range(3):
        us.write(retitle(f"only here {number}"), found.now_ms)
        us.commit()
    us.tend(found.now_ms)
    damage(us, us.journal.committed[ENTITY]._replace(cells={}))
    # The peer's state comes, and nothing goes there.
    run(found, 12_000, "us>eu")
    assert us.get("c1").title == "only here 2" and us.journal.integrity.damages.repaired == 1
    run(found, 12_000)
    assert len(canonical(found)) == 1


def test_a_peer_that_is_ahead_is_waited_for() -> None:
    found = world("ap", "eu", "us")
    _, eu, us = found.regions.values()
    eu.write(retitle("later"), found.now_ms)
    eu.commit()
    us.log.states[ENTITY] = None
    damage(us, us.journal.committed[ENTITY]._replace(cells={}))
    # Of eu nothing comes but the answers, as if its frames were held up by their credit.
    link = found.links["eu", "us"]
    link.connect("nobody")
    for _ in range(80):
        found.now_ms += 100
        link.carry(found.now_ms)
        us.tend(found.now_ms)
    assert us.journal.integrity.damages.found == 1 and not us.repaired
    link.cut()
    run(found, 12_000)
    assert us.repaired and len(canonical(found)) == 1


def test_an_entity_that_is_being_written_is_repaired_between_the_writes() -> None:
    found = world("eu", "us")
    us = found.regions["us"]
    damage(us, us.journal.committed[ENTITY]._replace(cells={}))
    us.write(retitle("on top"), found.now_ms)
    us.take()
    for _ in range(60):
        found.now_ms += 100
        for link in found.links.values():
            if not link.open:
                link.connect()
            link.carry(found.now_ms)
        us.tend(found.now_ms)
    assert not us.repaired, "its commit has not ended"
    us.commit()
    run(found, 12_000)
    assert len(canonical(found)) == 1 and us.get("c1").title == "on top"
    assert us.get("c1").takeovers == 3


@pytest.mark.parametrize("names", [("eu", "us"), ("ap", "eu", "us")])
def test_regions_that_differ_although_each_is_as_it_was_hashed_become_equal(names) -> None:
    found = world(*names)
    us = found.regions["us"]
    right = us.journal.committed[ENTITY]
    wrong = right._replace(cells={})
    damage(us, wrong, hashed=True)
    run(found, 15_000)
    assert canonical(found) == {encode(right)}
    assert DIVERGENCE in kinds(us)
    assert all(r.journal.integrity.damages.repaired > 0 for r in found.regions.values())
    run(found, 6000)
    for name in names:
        integrity = found.regions[name].journal.integrity
        assert not integrity.damages.open(from_peers=True)
        for peer in set(names) - {name}:
            assert integrity.with_peer(peer).equal_up_to == found.regions[name].journal.vector


def test_most_regions_are_right_and_two_that_differ_are_joined() -> None:
    found = world("eu")
    right = found.regions["eu"].journal.committed[ENTITY]
    later = right._replace(changed=right.changed._replace(clock=right.changed.clock + 99))
    assert chosen([later, right, right]) == right
    assert chosen([None, right, None]) is None
    assert chosen([later, right]) == later and chosen([right, later]) == later
    assert chosen([None, right]) == right


def behind(found: World, title: str) -> Region:
    """Region us, which wrote a title that eu has not, and has cut its journal since."""
    us = found.regions["us"]
    us.write(retitle(title), found.now_ms)
    us.commit()
    us.tend(found.now_ms)
    us.log.flush(us.journal)
    return us


def test_a_peer_that_is_behind_has_the_right_state_if_its_fingerprint_says_so() -> None:
    found = world("eu", "us")
    us = found.regions["us"]
    right = us.journal.committed[ENTITY]
    us.write(lambda tx: tx.create(Channel(channel_id="c2")), found.now_ms)
    us.commit()
    us.tend(found.now_ms)
    us.log.flush(us.journal)
    us.log.states[ENTITY] = None
    damage(us, right._replace(cells={}))
    run(found, 10_000, "us>eu")
    assert us.journal.committed[ENTITY] == right
    assert us.journal.integrity.damages.repaired == 1


def test_damage_in_memory_is_repaired_from_the_store_if_all_peers_are_behind() -> None:
    found = world("eu", "us")
    us = behind(found, "stored")
    us.write(retitle("in the journal"), found.now_ms)
    us.commit()
    us.tend(found.now_ms)
    right = us.journal.committed[ENTITY]
    damage(us, right._replace(cells={}))
    run(found, 20_000, "us>eu")
    assert us.journal.committed[ENTITY] == right
    (named,) = us.journal.integrity.damages.status()
    assert named.HasField("repaired") and LOST not in named.detail


def test_without_a_peer_the_store_has_what_was_damaged_in_memory() -> None:
    found = world("eu", "us")
    us = behind(found, "alone")
    right = us.journal.committed[ENTITY]
    damage(us, right._replace(cells={}))
    run(found, 12_000, "eu>us", "us>eu")
    assert us.journal.committed[ENTITY] == right


def test_what_no_region_has_as_it_was_is_taken_from_who_is_behind_and_said_to_be_lost() -> None:
    found = world("eu", "us")
    us = behind(found, "lost")
    us.log.states[ENTITY] = None
    us.write(lambda tx: tx.increment(Channel, "c1", "takeovers", 4), found.now_ms)
    us.commit()
    us.tend(found.now_ms)
    damage(us, us.journal.committed[ENTITY]._replace(cells={}))
    run(found, 30_000, "us>eu")
    (open,) = us.journal.integrity.damages.open(from_peers=True)
    assert open.entity == ENTITY and us.journal.integrity.damages.repairing, "eu may catch up"
    run(found, 40_000, "us>eu")
    (named,) = us.journal.integrity.damages.status()
    assert named.HasField("repaired") and LOST in named.detail
    assert (us.get("c1").title, us.get("c1").takeovers) == ("one", 7)
    assert not us.journal.integrity.damages.repairing


def test_a_jump_of_the_clock_does_not_end_the_patience() -> None:
    found = Damage(MEMORY, ENTITY, 0, "", from_peers=True)
    for now_ms in (0, 500, 10_000_000, 10_000_400, 5, 505):
        found.look(now_ms)
    assert found.waited_ms == 500 + 1000 + 400 + 0 + 500


def test_without_a_peer_and_a_stored_state_the_damage_stays_known() -> None:
    found = world("eu", "us")
    us = found.regions["us"]
    us.log.states[ENTITY] = None
    damage(us, us.journal.committed[ENTITY]._replace(cells={}))
    run(found, 12_000, "eu>us", "us>eu")
    (open,) = us.journal.integrity.damages.open(from_peers=True)
    assert open.entity == ENTITY and us.journal.integrity.damages.repaired == 0
    run(found, 12_000)
    assert us.journal.integrity.damages.repaired == 1
