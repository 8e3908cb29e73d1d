"""What each sidecar discovers, compiled from the contract."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh import topology as topologies
from mesh.contracts.model import Contract, Locality, Method, Role
from mesh.contracts.read import load
from mesh.envoy import (
    ControlPlane,
    EnvoyConfigError,
    compile_discovering,
    compile_for,
    discovered,
)
from mesh.envoy.text import text
from mesh.identity.spiffe import WorkloadId
from mesh.place import EDGE, Place
from mesh.topology import Address
from mesh.xds import Compiler, Instance, Revision
from mesh.xds.kinds import CLUSTER, ENDPOINTS, LISTENER, ROUTES

TOPOLOGY = topologies.load(Path(__file__).parents[3] / "mesh.yaml")
CONTRACT = load()
CONTROL = ControlPlane(
    Address("127.0.0.1", 7000), WorkloadId(TOPOLOGY.trust_domain, "eu", "control")
)


def place(workload: str, folder: str = "/var/isthmus") -> Place:
    return Place("eu", workload, TOPOLOGY.path, Path("/run/isthmus/eu"), Path(folder))


def with_method(contract: Contract, method: Method) -> Contract:
    """The contract with this method in place of the one of its name."""
    services = {
        name: replace(
            service,
            methods=tuple(method if m.path == method.path else m for m in service.methods),
        )
        for name, service in contract.services.items()
    }
    return replace(contract, services=services)


def differing(one: Revision, other: Revision) -> dict[Instance, set[tuple[str, str]]]:
    found: dict[Instance, set[tuple[str, str]]] = {}
    for instance, snapshot in one.snapshots.items():
        for type_url in (CLUSTER, ENDPOINTS, LISTENER, ROUTES):
            changes = other.snapshots[instance][type_url].changes_since(snapshot[type_url])
            for name in (*changes.changed, *changes.removed):
                found.setdefault(instance, set()).add((type_url, name))
    return found


@pytest.mark.parametrize("workload", ["channels", "authority", EDGE])
def test_together_they_are_what_the_static_form_has(workload: str) -> None:
    """Put back where it was taken from, each part is the same but for the paths."""
    found = discovered(CONTRACT, TOPOLOGY, "eu", workload)
    parts = {(each.type_url, each.name): json.loads(text(each.message)) for each in found}
    listeners = [part for (type_url, _), part in parts.items() if type_url == LISTENER]
    for each in listeners:
        config = each["filter_chains"][0]["filters"][-1]["typed_config"]
        name = config.pop("rds")["route_config_name"]
        config["route_config"] = parts[ROUTES, name]
    clusters = [part for (type_url, _), part in parts.items() if type_url == CLUSTER]
    for each in clusters:
        if each.pop("eds_cluster_config", None):
            assert each["type"] == "EDS"
            each["type"] = "STATIC"
            each["load_assignment"] = parts[ENDPOINTS, each["name"]]
    own = replace(place(workload), run=Path(), state=Path("state"))
    static = json.loads(compile_for(CONTRACT, TOPOLOGY, own).bootstrap)["static_resources"]
    by_name = {each["name"]: each for each in static["clusters"]}
    assert {each["name"]: each for each in clusters} == by_name
    assert listeners == static["listeners"]


def test_what_is_served_says_nothing_of_a_disk() -> None:
    said = "".join(text(each.message) for each in discovered(CONTRACT, TOPOLOGY, "eu", "channels"))
    assert '"state/identity/' not in said  # the SDS files hold what is there
    assert {'"state/envoy/leaf.sds.json"', '"state/envoy/roots.sds.json"'} <= set(said.split())
    assert '"app.sock"' in said
    for folder in ("/var", "/run", "/tmp", str(TOPOLOGY.path.parent)):
        assert f'"{folder}/' not in said


def test_compiling_again_gives_the_same_versions_and_shares_them() -> None:
    compiler = Compiler()
    one = compiler.revision("one", CONTRACT, TOPOLOGY)
    again = compiler.revision("again", CONTRACT, TOPOLOGY)
    assert not differing(one, again)
    for instance, snapshot in one.snapshots.items():
        for type_url in snapshot:
            assert again.snapshots[instance][type_url] is snapshot[type_url]
    elsewhere = Compiler().revision("elsewhere", CONTRACT, TOPOLOGY, ["eu"])
    assert {i.region for i in elsewhere.snapshots} == {"eu"}
    for instance, snapshot in elsewhere.snapshots.items():
        assert snapshot.version == one.snapshots[instance].version
    # All of a region share the way to one that they all call.
    ways = {
        id(snapshot[CLUSTER]["authority/nearest"])
        for instance, snapshot in one.snapshots.items()
        if instance.region == "eu" and "authority/nearest" in snapshot[CLUSTER]
    }
    assert len(ways) == 1


@settings(max_examples=8)
@given(data=st.data())
def test_one_contract_after_another_is_compiled_as_each_by_itself(data: st.DataObject) -> None:
    """What is kept from one to the next is never what has changed."""
    compiler, contract = Compiler(), CONTRACT
    methods = st.sampled_from([m.path for m in CONTRACT.methods()])
    workloads = st.sets(st.sampled_from(TOPOLOGY.workloads), max_size=2)
    for number in range(3):
        for path in data.draw(st.sets(methods, max_size=3)):
            old = next(m for m in contract.methods() if m.path == path)
            contract = with_method(
                contract,
                replace(
                    old,
                    callers=replace(
                        old.callers,
                        workloads=frozenset(data.draw(workloads)),
                        roles=frozenset(data.draw(st.sets(st.sampled_from(Role)))),
                    ),
                    timeout=data.draw(st.sampled_from((None, 1.0, 2.0))),
                    locality=data.draw(st.sampled_from((Locality.NEAREST, Locality.LOCAL))),
                ),
            )
        topology = TOPOLOGY
        if data.draw(st.booleans()):
            topology = replace(TOPOLOGY, otlp="collector.test:4317")
        one = compiler.revision(f"r{number}", contract, topology, ["eu"])
        fresh = Compiler().revision(f"r{number}", contract, topology, ["eu"])
        assert not differing(one, fresh)


def test_a_change_of_one_methods_callers_changes_its_tables_alone() -> None:
    method = next(
        m for m in CONTRACT.methods() if m.path == "/isthmus.channels.v1.ChannelService/GetChannel"
    )
    callers = replace(method.callers, workloads=method.callers.workloads | {"gateway"})
    changed = with_method(CONTRACT, replace(method, callers=callers))
    compiler = Compiler()
    before = compiler.revision("before", CONTRACT, TOPOLOGY)
    after = compiler.revision("after", changed, TOPOLOGY)
    found = differing(before, after)
    assert {i.workload for i in found} >= {"channels"}
    for instance, names in found.items():
        if instance.workload == "channels":
            assert names == {(ROUTES, "inbound")}
        else:
            assert (ROUTES, "inbound") not in names


def test_what_a_cluster_and_a_listener_need_is_there() -> None:
    for snapshot in Compiler().revision("r", CONTRACT, TOPOLOGY).snapshots.values():
        for collection in snapshot.values():
            for type_url, names in collection.needs.items():
                assert names <= snapshot[type_url].keys()
        assert snapshot[LISTENER].needs[ROUTES] == snapshot[ROUTES].keys()


def test_a_sidecar_that_discovers_starts_from_the_way_to_the_control_plane_alone() -> None:
    found = compile_discovering(place("channels"), CONTROL)
    document = json.loads(found.bootstrap)
    (only,) = document["static_resources"]["clusters"]
    assert only["name"] == "control-plane"
    assert "spiffe://isthmus.test/region/eu/workload/control" in json.dumps(only)
    assert "listeners" not in document["static_resources"]
    assert document["dynamic_resources"]["ads_config"]["api_type"] == "DELTA_GRPC"
    # The same wherever it stands.
    assert compile_discovering(place("channels", "/elsewhere"), CONTROL) == found
    unix = compile_discovering(place("channels"), ControlPlane(Path("/run/ads.sock")))
    (only,) = json.loads(unix.bootstrap)["static_resources"]["clusters"]
    assert "transport_socket" not in only


def test_a_control_plane_is_verified_or_on_the_own_host() -> None:
    with pytest.raises(EnvoyConfigError, match="needs an identity to verify"):
        ControlPlane(Address("127.0.0.1", 7000))
    with pytest.raises(EnvoyConfigError, match="needs no identity"):
        ControlPlane(Path("/run/ads.sock"), CONTROL.identity)
    with pytest.raises(EnvoyConfigError, match="too long for a socket"):
        compile_discovering(replace(place("channels"), run=Path("/" + "x" * 110)), CONTROL)
    with pytest.raises(EnvoyConfigError, match="no workload 'unheard-of'"):
        discovered(CONTRACT, TOPOLOGY, "eu", "unheard-of")
