"""Where what is served and what runs differ from what a contract compiles to."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mesh import topology as topologies
from mesh.contracts.model import Callers, Contract
from mesh.contracts.read import load
from mesh.envoy.running import BOOTSTRAP, RUNTIME, Running
from mesh.xds.compiler import Compiler
from mesh.xds.drift import MOST, Between, Compiled, Key, against_contract, against_envoy
from mesh.xds.fleet import Instance
from mesh.xds.kinds import ROUTES
from mesh.xds.resources import Resource

TOPOLOGY = topologies.load(Path(__file__).parents[3] / "mesh.yaml")
HERE = Instance("eu", "channels")
INBOUND = (ROUTES, "inbound")


@pytest.fixture(scope="module")
def known() -> Compiled:
    return Compiled(load(), TOPOLOGY)


def changed() -> Contract:
    """Nobody may start channels."""
    contract = load()
    name = "isthmus.channels.v1.ChannelService"
    service = contract.services[name]
    methods = tuple(
        replace(each, callers=Callers(workloads=frozenset({"overview"})), timeout=77.0)
        if each.name == "StartChannel"
        else each
        for each in service.methods
    )
    return replace(
        contract, services={**contract.services, name: replace(service, methods=methods)}
    )


def served(contract: Contract) -> dict[Key, Resource]:
    snapshot = Compiler().snapshot(contract, TOPOLOGY, HERE.region, HERE.workload)
    return {(each.type_url, each.name): each for c in snapshot.values() for each in c.values()}


def forms(known: Compiled, serves: dict[Key, Resource]) -> dict[Key, Running]:
    return {key: known.form(each) for key, each in serves.items()}


def test_what_is_as_compiled_does_not_drift(known: Compiled) -> None:
    serves = served(load())
    assert not list(against_contract(HERE, known, serves))
    runs = {key: each.digest for key, each in forms(known, serves).items()}
    found = against_envoy(HERE, known, serves, runs, {})
    assert not found.drifts and not found.texts


def test_another_revision_s_resource_is_told_with_its_path(known: Compiled) -> None:
    found = list(against_contract(HERE, known, served(changed())))
    assert {each.subject for each in found} == {"RouteConfiguration inbound"}
    assert all(each.between is Between.CONTRACT_COMPILED for each in found)
    (limit,) = (each for each in found if each.path.endswith(".max_stream_duration"))
    assert "[/isthmus.channels.v1.ChannelService/StartChannel]" in limit.path
    assert (limit.there, limit.should) == ("78", "6")


def test_what_differs_is_asked_for_and_then_told(known: Compiled) -> None:
    serves = served(load())
    foreign = forms(known, served(changed()))
    runs = {key: each.digest for key, each in foreign.items()}
    first = against_envoy(HERE, known, serves, runs, {})
    assert first.texts == (INBOUND,)
    (blind,) = first.drifts
    assert str(blind) == (
        "eu/channels: RouteConfiguration inbound: Envoy runs one of its own, "
        "should have what was compiled"
    )
    again = against_envoy(HERE, known, serves, runs, {INBOUND: foreign[INBOUND].text})
    assert not again.texts
    assert any(each.path.endswith("max_stream_duration") for each in again.drifts)


def test_what_is_missing_and_what_is_too_much(known: Compiled) -> None:
    serves = served(load())
    runs = {key: each.digest for key, each in forms(known, serves).items()}
    del runs[INBOUND]
    key = (RUNTIME, "by.hand")
    found = against_envoy(HERE, known, serves, {**runs, key: b"x"}, {key: json.dumps("7")})
    assert [str(each) for each in found.drifts] == [
        'eu/channels: runtime by.hand: Envoy runs "7", should have nothing',
        "eu/channels: RouteConfiguration inbound: Envoy runs nothing, should have it",
    ]


def test_many_differences_are_counted(known: Compiled) -> None:
    serves = served(load())
    form = forms(known, serves)[INBOUND]
    value: Any = json.loads(form.text)
    for each in value["virtual_hosts"][0]["routes"]:
        each["x"] = 1
    other = Running(*INBOUND, value)
    runs = {key: each.digest for key, each in forms(known, serves).items()}
    found = against_envoy(
        HERE, known, serves, {**runs, INBOUND: other.digest}, {INBOUND: other.text}
    )
    assert len(found.drifts) == MOST + 1
    assert found.drifts[-1].there.endswith("more differences")


def test_an_envoy_that_was_started_from_something_else_drifts(known: Compiled) -> None:
    serves = served(load())
    runs = {key: each.digest for key, each in forms(known, serves).items()}
    key = (BOOTSTRAP, "bootstrap.json")
    mine = known.started_from(HERE)
    assert not against_envoy(HERE, known, serves, {**runs, key: mine.digest}, {}).drifts
    limit = '"max_active_downstream_connections":'
    text = mine.text.replace(f"{limit}8192", f"{limit}9")
    found = against_envoy(HERE, known, serves, {**runs, key: b"x"}, {key: text})
    assert [(each.subject, each.there, each.should) for each in found.drifts] == [
        ("Bootstrap bootstrap.json", "9", "8192")
    ]
