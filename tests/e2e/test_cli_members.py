"""The commands about members against a running mesh of three regions, through its edges."""

from __future__ import annotations

import json
import time

import pytest

from mesh.cli.exits import Exit
from tests.support.mesh import Run

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]


@pytest.fixture
def members(isthmus: Run) -> Run:
    return lambda *arguments: isthmus("members", *arguments)


def states(members: Run, region: str, viewer: str) -> set[str]:
    """How a region stands in all groups, as another one sees it."""
    shown = members("list", "--region", viewer, "--json")
    assert shown.stdout, shown.stderr
    return {
        member["member"]["state"].removeprefix("MEMBER_STATE_")
        for group in json.loads(shown.stdout)["groups"]
        for member in group["members"]
        if member["member"]["region"] == region
    }


def until(members: Run, region: str, viewer: str, state: str) -> None:
    end = time.monotonic() + 60
    while states(members, region, viewer) != {state}:
        assert time.monotonic() < end, states(members, region, viewer)


def test_a_region_is_evicted_and_comes_back(members: Run) -> None:
    listed = members("list")
    assert listed.returncode == Exit.OK, listed.stderr
    assert "eu (home)" in listed.stdout and "JOINED" in listed.stdout
    evicted = members("evict", "ap")
    assert evicted.returncode == Exit.OK, evicted.stderr
    assert "channels: ap is EVICTED; decisions are taken in eu" in evicted.stdout
    try:
        until(members, "ap", "us", "EVICTED")
        refused = members("leave", "ap")
        assert refused.returncode == Exit.CONFLICT
        assert "isthmus members rejoin ap" in refused.stderr
        told = members("restore", "ap")
        assert told.returncode == Exit.FAILED
        assert "isthmus members rejoin ap" in told.stdout
    finally:
        assert members("rejoin", "ap").returncode == Exit.OK
    # The home first: before ap has heard of its eviction, it still takes itself for a member.
    until(members, "ap", "eu", "JOINED")
    until(members, "ap", "ap", "JOINED")
    whole = members("restore", "ap")
    assert whole.returncode == Exit.OK, whole.stdout + whole.stderr
    assert "0 are missing" in whole.stdout


def test_the_home_moves_and_keeps_itself(members: Run) -> None:
    refused = members("evict", "eu", "--group", "channels")
    assert refused.returncode == Exit.CONFLICT
    assert "isthmus members home --to" in refused.stderr
    moved = members("home", "--to", "us", "--group", "channels")
    assert moved.returncode == Exit.OK, moved.stderr
    try:
        assert "decisions are taken in us" in moved.stdout
        end = time.monotonic() + 30
        while members("leave", "mars", "--group", "channels").returncode != Exit.NOT_FOUND:
            assert time.monotonic() < end
    finally:
        forced = members("home", "--to", "eu", "--force", "--group", "channels")
        assert forced.returncode == Exit.OK, forced.stderr
    assert members("list", "--group", "nope").returncode == Exit.NOT_FOUND
