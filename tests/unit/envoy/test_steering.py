"""Operators' settings that the contract does not allow are refused with their line."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mesh import topology as topologies
from mesh.contracts.model import Idempotency
from mesh.contracts.read import load
from mesh.envoy import EnvoyConfigError, compile_for
from mesh.envoy.steering import check
from mesh.place import EDGE, Place
from mesh.traffic import Drill, Mirror, Traffic, Version

ROOT = Path(__file__).parents[3]
TOPOLOGY = topologies.load(ROOT / "mesh.yaml")
LOADED = load()
NEXT = Version("overview", "next", "eu", "127.0.0.1", 21005, 10, line=3)
UNTIL = datetime(2026, 1, 31, tzinfo=UTC)


def drill(name: str = "d", workload: str = "channels", **given: Any) -> Drill:
    settings: dict[str, Any] = {"delay": 1.0, "line": 7}
    return Drill(name, workload, UNTIL, 50.0, **(settings | given))


IDEMPOTENT = "isthmus.channels.v1.ChannelService/GetChannel"
ONCE = "isthmus.channels.v1.ChannelService/StartChannel"
_SERVICE = LOADED.services["isthmus.channels.v1.ChannelService"]
CONTRACT = replace(
    LOADED,
    services={
        **LOADED.services,
        _SERVICE.name: replace(
            _SERVICE,
            methods=tuple(
                replace(m, idempotency=Idempotency.UNKNOWN, retry=None) if m.path[1:] == ONCE else m
                for m in _SERVICE.methods
            ),
        ),
    },
)
"""That of the system, with one method that may not be repeated."""


REFUSED = {
    "it has one writer": (
        Traffic(versions=(replace(NEXT, workload="channels"),)),
        r":3: traffic: channels owns the group 'channels', which has one writer",
    ),
    "a method that nobody serves": (
        Traffic(mirrors=(Mirror("a.B/C", 5.0, region="us", line=4),)),
        r":4: traffic: a.B/C is in no contract",
    ),
    "effects twice": (
        Traffic(mirrors=(Mirror(ONCE, 5.0, region="us", line=5),)),
        r":5: traffic: .* is not idempotent, .* write `effects: true`",
    ),
    "the mesh's own": (
        Traffic(
            mirrors=(
                Mirror(
                    "isthmus.mesh.v1.AuthorityService/CreateJoinToken", 5.0, region="us", line=6
                ),
            )
        ),
        r":6: traffic: .* belongs to the mesh",
    ),
    "another workload's version": (
        Traffic((), (NEXT,), (Mirror(IDEMPOTENT, 5.0, version="next", line=6),)),
        r":6: traffic: channels, which serves it, has no version 'next'",
    ),
    "a stream": (
        Traffic(
            mirrors=(
                Mirror(
                    "isthmus.overview.v1.OverviewService/WatchOverview", 5.0, region="us", line=6
                ),
            )
        ),
        r":6: traffic: .* is a stream",
    ),
    "a method of another": (
        Traffic(drills=(drill(workload="overview", methods=(IDEMPOTENT,)),)),
        r":7: traffic: overview serves no isthmus.channels",
    ),
    "nobody calls it": (
        Traffic(drills=(drill(workload="overview", callers=("devices",)),)),
        r":7: traffic: the contract lets devices call none of these methods",
    ),
    "two at once": (
        Traffic(drills=(drill("a"), drill("b", regions=("us",)))),
        r":7: traffic: the drills 'a' and 'b' meet at isthmus.channels",
    ),
}


@pytest.mark.parametrize(("traffic", "said"), REFUSED.values(), ids=REFUSED)
def test_what_the_contract_does_not_allow_is_refused(traffic: Traffic, said: str) -> None:
    with pytest.raises(EnvoyConfigError, match=said):
        check(CONTRACT, replace(TOPOLOGY, traffic=traffic))


@pytest.mark.parametrize(
    "traffic",
    [
        Traffic(versions=(NEXT,)),
        Traffic(mirrors=(Mirror(IDEMPOTENT, 5.0, region="us"),)),
        Traffic(mirrors=(Mirror(ONCE, 5.0, region="us", effects=True),)),
        Traffic(drills=(drill("a", regions=("eu",)), drill("b", regions=("us",)))),
        Traffic(drills=(drill("a"), drill("b", callers=(EDGE,)))),
    ],
)
def test_what_it_allows_passes(traffic: Traffic) -> None:
    check(CONTRACT, replace(TOPOLOGY, traffic=traffic))


def compiled(region: str, workload: str, traffic: Traffic) -> dict[str, Any]:
    place = Place(region, workload, TOPOLOGY.path, Path("/run/i"), Path("/var/i"))
    topology = replace(TOPOLOGY, traffic=traffic)
    document: dict[str, Any] = json.loads(compile_for(CONTRACT, topology, place).bootstrap)
    return document["static_resources"]


def test_an_edge_splits_between_versions_in_their_region_alone() -> None:
    traffic = Traffic(versions=(NEXT,))
    here = compiled("eu", EDGE, traffic)
    names = {cluster["name"]: cluster for cluster in here["clusters"]}
    endpoints = names["overview@next/nearest"]["load_assignment"]["endpoints"]
    ports = [
        e["lb_endpoints"][0]["endpoint"]["address"]["socket_address"]["port_value"]
        for e in endpoints
    ]
    assert ports[0] == 21005
    assert ports[1] == TOPOLOGY.inbound("eu", "overview").port
    assert [e.get("priority", 0) for e in endpoints] == [0, 1, 2, 3]
    weights = {
        "clusters": [
            {"name": "overview@next/nearest", "weight": 10},
            {"name": "overview/nearest", "weight": 90},
        ]
    }
    assert json.dumps(weights["clusters"]) in json.dumps(here["listeners"])
    assert "overview@next" not in json.dumps(compiled("us", EDGE, traffic))


def test_a_drill_changes_routes_alone() -> None:
    """A listener that changes drains its connections: to begin a drill must not."""
    before = compiled("eu", "channels", Traffic())
    after = compiled("eu", "channels", Traffic(drills=(drill(),)))

    def without_routes(resources: dict[str, Any]) -> Any:
        for listener in resources["listeners"]:
            listener["filter_chains"][0]["filters"][-1]["typed_config"].pop("route_config")
        return resources

    assert before != after
    assert without_routes(before) == without_routes(after)
