"""Who counts as alive, and who as heard itself."""

from __future__ import annotations

import pytest
from isthmus.replication.v1 import link_pb2

from mesh.replication.core.handshake import hello
from mesh.replication.core.reach import DEFAULT_LOST_AFTER_MS, Hearing
from mesh.replication.core.receiving import PeerView, Receiver
from tests.support.regions import Region, World

ALL = [f"{a}>{b}" for a in ("ap", "eu", "us") for b in ("ap", "eu", "us") if a != b]


@pytest.fixture
def world() -> World:
    """Three regions that have heard one another."""
    world = World("ap", "eu", "us")
    world.run(2000)
    assert all(_reachable(world, a, b) and _linked(world, a, b) for a, b in world.links)
    return world


def _reachable(world: World, region: str, peer: str) -> bool:
    return world.regions[region].hearing.reachable(peer, world.now_ms)


def _linked(world: World, region: str, peer: str) -> bool:
    return world.regions[region].hearing.linked(peer, world.now_ms)


def test_a_region_whose_link_is_down_lives_while_another_hears_it(world: World) -> None:
    for _ in range(200):
        world.run(100, "eu>us", "us>eu")
        assert _reachable(world, "eu", "us") and _reachable(world, "us", "eu")
    assert not _linked(world, "eu", "us") and not _linked(world, "us", "eu")
    assert _linked(world, "eu", "ap") and _linked(world, "ap", "us")


def test_a_region_that_nobody_hears_is_lost_and_stays_lost(world: World) -> None:
    dead = [link for link in ALL if "us" in link]
    # Each of the others may know its last heartbeat a little later than the other.
    world.run(100, *dead, "ap>eu")
    world.run(DEFAULT_LOST_AFTER_MS + 1000, *dead)
    for _ in range(200):
        world.run(100, *dead)
        assert not _reachable(world, "eu", "us") and not _reachable(world, "ap", "us")
        assert _reachable(world, "eu", "ap") and _reachable(world, "ap", "eu")


def test_after_a_cut_whoever_is_heard_first_tells_that_the_other_lives(world: World) -> None:
    alone = [link for link in ALL if "eu" in link]
    world.run(10_000, *alone)
    assert not _reachable(world, "eu", "us")
    # What ap relays of us must find eu knowing that us lives.
    world.run(100, "us>eu", "eu>us")
    assert _reachable(world, "eu", "us")


def test_a_clock_of_the_far_future_is_not_passed_on() -> None:
    us = Region("us", ["ap", "eu"])
    view = PeerView()
    receiver = Receiver(us.journal, "channels", "eu", view)
    eu = Region("eu", ["ap", "us"])
    greeting = hello(eu.journal, "channels")
    receiver.on_message(link_pb2.FollowResponse(hello=greeting), 1_000_000)
    beat = link_pb2.Heartbeat(clock=1_000_000 << 16, heard={"ap": (1_000_000 + 360_000) << 16})
    receiver.on_message(link_pb2.FollowResponse(heartbeat=beat), 1_000_000)
    assert view.clocks == {"eu": 1_000_000 << 16}


def test_only_peers_are_heard_of() -> None:
    hearing = Hearing(["ap", "us"])
    assert hearing.heard_of({"ap": 5, "eu": 5, "stranger": 5}, 0) == {"ap"}
    assert hearing.clocks == {"ap": 5}
    assert hearing.heard_of({"ap": 5}, 100) == hearing.heard_of({"ap": 4}, 100) == set()
    assert hearing.silence_ms("ap", 100) is None
