"""Plans name the sidecars that would change; verdicts are those that the runtime reaches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mesh import topology as topologies
from mesh.contracts import exceptions
from mesh.contracts.model import EVERY_WORKLOAD, Contract, Method, Role
from mesh.contracts.read import load
from mesh.place import EDGE
from mesh.runtime.authorization import permits
from mesh.runtime.principal import Principal
from mesh.xds.fleet import Instance
from mesh.xds.plan import Deployable, envoy_diff, plan
from mesh.xds.why import Caller, Unclear, caller_of, method_of, why

TOPOLOGY = topologies.load(Path(__file__).parents[3] / "mesh.yaml")
CONTRACT = load()
SERVICE = "isthmus.channels.v1.ChannelService"
NOW = Deployable(CONTRACT, TOPOLOGY)


def with_caller(name: str, workload: str) -> Contract:
    """The contract with one more caller of a channels' method."""
    service = CONTRACT.services[SERVICE]
    methods = tuple(
        replace(m, callers=replace(m.callers, workloads=m.callers.workloads | {workload}))
        if m.name == name
        else m
        for m in service.methods
    )
    services = {**CONTRACT.services, SERVICE: replace(service, methods=methods)}
    return replace(CONTRACT, services=services)


def test_nothing_changes_nothing() -> None:
    made = plan(NOW, NOW)
    assert not (made.changes or made.sidecars or made.by_topology)
    assert made.of == len(TOPOLOGY.region_names) * (len(TOPOLOGY.workloads) + 1)


def test_a_caller_more_changes_its_sidecars_and_the_callees() -> None:
    new = Deployable(with_caller("GetChannel", "overview"), TOPOLOGY)
    made = plan(NOW, new)
    (planned,) = made.changes
    assert planned.change.what == "caller `overview` gains access"
    expected = {
        Instance(region, workload)
        for region in TOPOLOGY.region_names
        for workload in ("overview", "channels")
    }
    assert set(planned.sidecars) == set(made.sidecars) == expected
    region = TOPOLOGY.region_names[0]
    inbound = "\n".join(envoy_diff(NOW, new, Instance(region, "channels")))
    assert "RouteConfiguration/inbound" in inbound and "workload/overview" in inbound
    assert not list(envoy_diff(NOW, new, Instance(region, EDGE)))


def test_each_change_is_counted_by_itself() -> None:
    both = with_caller("GetChannel", "overview")
    service = both.services[SERVICE]
    methods = tuple(
        replace(m, timeout=9.0) if m.name == "ListChannels" else m for m in service.methods
    )
    both = replace(both, services={**both.services, SERVICE: replace(service, methods=methods)})
    made = {
        each.change.what: each.sidecars for each in plan(NOW, Deployable(both, TOPOLOGY)).changes
    }
    slower = {each.workload for each in made["timeout is 9 s, was 3 s"]}
    assert slower == {"channels", EDGE}
    assert {each.workload for each in made["caller `overview` gains access"]} == {
        "channels",
        "overview",
    }


def test_a_region_less_is_the_topologys_change() -> None:
    fewer = replace(TOPOLOGY, regions=TOPOLOGY.regions[:-1])
    made = plan(NOW, Deployable(CONTRACT, fewer))
    assert not made.changes and set(made.by_topology) == set(made.sidecars)
    gone = Instance(TOPOLOGY.regions[-1].name, EDGE)
    assert gone in made.sidecars
    assert any(
        line.startswith("--- a/") for line in envoy_diff(NOW, Deployable(CONTRACT, fewer), gone)
    )


def _principal(caller: Caller, region: str) -> Principal:
    if caller.role is not None:
        return Principal(caller.role.value, "someone", "", "edge")
    return Principal("workload", caller.name, region, "")


@pytest.mark.parametrize("method", list(CONTRACT.methods()), ids=lambda method: method.path)
def test_verdicts_are_those_of_the_runtime(method: Method) -> None:
    served = CONTRACT.services[method.service].workload
    callees = TOPOLOGY.workloads if served == EVERY_WORKLOAD else (served,)
    for caller in [*map(Caller, TOPOLOGY.workloads), *(Caller(role=role) for role in Role)]:
        found = why(CONTRACT, caller, method)
        permitted = any(
            permits(method.callers, _principal(caller, "us"), callee, "eu") for callee in callees
        )
        assert found.allowed == permitted, found
        assert found.location.startswith("isthmus/")


def test_exceptions_are_told_as_such() -> None:
    found = why(CONTRACT, Caller("overview"), method_of("Health/Check", CONTRACT))
    assert found.allowed and "an exception to the contract" in found.because
    assert found.location == exceptions.__name__


def test_callers_and_methods_are_found_by_short_names() -> None:
    domain = TOPOLOGY.trust_domain
    for text in ("overview", f"spiffe://{domain}/region/eu/workload/overview"):
        assert caller_of(text, TOPOLOGY) == Caller("overview")
    for text in ("operator", "operator/ann", f"spiffe://{domain}/operator/ann"):
        assert caller_of(text, TOPOLOGY) == Caller(role=Role.OPERATOR)
    for text in ("GetChannel", "ChannelService/GetChannel", f"/{SERVICE}/GetChannel"):
        found = method_of(text, CONTRACT)
        assert isinstance(found, Method) and found.path == f"/{SERVICE}/GetChannel"
    with pytest.raises(Unclear, match="name a workload"):
        caller_of("nobody", TOPOLOGY)
    with pytest.raises(Unclear, match=r"did you mean .*CreateChannel"):
        method_of("Create", CONTRACT)
    with pytest.raises(Unclear, match="could be one of"):
        method_of("ServerReflectionInfo", CONTRACT)
