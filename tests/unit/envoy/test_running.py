"""What an Envoy says it runs, in the form of what was compiled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mesh import topology as topologies
from mesh.contracts.read import load
from mesh.envoy import ControlPlane, compile_discovering, compile_for, discovered, hold
from mesh.envoy.discovery import standing
from mesh.envoy.encode import encode
from mesh.envoy.running import (
    CLUSTER,
    ENDPOINTS,
    LISTENER,
    ROUTES,
    RUNTIME,
    Running,
    compiled,
    plain,
    running,
    served,
    started_from,
)
from mesh.identity.spiffe import WorkloadId
from mesh.place import Place

TOPOLOGY = topologies.load(Path(__file__).parents[3] / "mesh.yaml")
PLACE = Place("eu", "authority", TOPOLOGY.path, Path("/run/i/eu"), Path("/state/eu"))
NO_RUNTIME: dict[str, Any] = {"layers": ["admin"], "entries": {}}


def static_dump() -> dict[str, Any]:
    """A dump as the authority's Envoy gives it, which starts from files."""
    configuration = json.loads(compile_for(load(), TOPOLOGY, PLACE).bootstrap)
    found = configuration["static_resources"]
    endpoints = [
        json.loads(json.dumps(each["load_assignment"])) | {"@type": ENDPOINTS}
        for each in found["clusters"]
    ]
    for each in endpoints:
        for group in each["endpoints"]:
            group["load_balancing_weight"] = 0
            for one in group["lb_endpoints"]:
                one |= {"health_status": "UNHEALTHY", "load_balancing_weight": 1}
    return {
        "configs": [
            {
                "static_clusters": [
                    {"cluster": each | {"@type": CLUSTER}} for each in found["clusters"]
                ]
            },
            {"static_endpoint_configs": [{"endpoint_config": each} for each in endpoints]},
            {
                "static_listeners": [
                    {"listener": each | {"@type": LISTENER}} for each in found["listeners"]
                ]
            },
        ]
    }


def should() -> dict[tuple[str, str], Running]:
    made = [
        compiled(each.name, each.message)
        for each in discovered(load(), TOPOLOGY, "eu", "authority")
    ]
    return {(each.type_url, each.name): each for each in made}


def found_in(dump: dict[str, Any], runtime: dict[str, Any] = NO_RUNTIME) -> dict[Any, Running]:
    return {(each.type_url, each.name): each for each in running(dump, runtime, PLACE)}


def test_a_sidecar_from_files_runs_what_one_that_discovers_would() -> None:
    found, expected = found_in(static_dump()), should()
    assert found.keys() == expected.keys()
    assert {kind for kind, _ in found} == {CLUSTER, ENDPOINTS, LISTENER, ROUTES}
    for key, each in expected.items():
        assert found[key].digest == each.digest, key


@pytest.mark.parametrize(
    "find, replace, kind",
    [
        ('"/isthmus.mesh.v1.AuthorityService/Renew"', '"/other"', ROUTES),
        (f'"port_value": {TOPOLOGY.inbound("eu", "control").port}', '"port_value": 9', ENDPOINTS),
        ('"num_retries": 2', '"num_retries": 3', ROUTES),
        ('"max_connections": 1024', '"max_connections": 1025', CLUSTER),
    ],
)
def test_another_value_shows(find: str, replace: str, kind: str) -> None:
    text = json.dumps(static_dump())
    assert find in text
    expected = should()
    differing = {
        key
        for key, each in found_in(json.loads(text.replace(find, replace))).items()
        if each.digest != expected[key].digest
    }
    assert {each for each, _ in differing} == {kind}


def test_bytes_have_the_form_of_their_message() -> None:
    for each in discovered(load(), TOPOLOGY, "eu", "edge"):
        expected = compiled(each.name, each.message)
        assert served(each.type_url, each.name, encode(each.message)) == expected


def test_an_unknown_type_is_told() -> None:
    with pytest.raises(TypeError, match=r"example\.Unknown"):
        served("type.googleapis.com/example.Unknown", "x", b"")


def test_a_runtime_value_set_by_hand_shows() -> None:
    runtime = {
        "layers": ["static", "admin"],
        "entries": {
            "by.hand": {"layer_values": ["", "7"]},
            "of.the.file": {"layer_values": ["3", ""]},
            hold.KEY: {"layer_values": ["", "0"]},
        },
    }
    found = found_in({"configs": []}, runtime)
    assert list(found) == [(RUNTIME, "by.hand")]
    runtime["entries"][hold.KEY] = {"layer_values": ["", "100"]}  # type: ignore[index]  # a dict
    assert (RUNTIME, hold.KEY) in found_in({"configs": []}, runtime)


def test_spellings_do_not_count() -> None:
    assert plain({"a": ["0.250s", "5s", 50.0, "256", "x", "5m"]}) == {
        "a": [0.25, 5, 50, 256, "x", "5m"]
    }


def test_what_it_was_started_from_counts_where_the_rest_is_discovered() -> None:
    identity = WorkloadId(TOPOLOGY.trust_domain, "eu", "control")
    control = ControlPlane(TOPOLOGY.inbound("eu", "control"), identity)
    bootstrap = compile_discovering(standing(TOPOLOGY, "eu", "channels"), control).bootstrap
    expected = started_from(bootstrap)
    dump = json.loads(bootstrap)
    dump["node"] |= {"user_agent_name": "envoy", "extensions": [{"name": "one of many"}]}
    (found,) = found_in({"configs": [{"bootstrap": dump}]}).values()
    assert found == expected
    dump["overload_manager"]["resource_monitors"] = []
    (other,) = found_in({"configs": [{"bootstrap": dump}]}).values()
    assert other.digest != expected.digest
