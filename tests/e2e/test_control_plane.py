"""Sidecars that discover what they do: real Envoys, and the control plane by mTLS."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import grpc
import pytest
from envoy_data_plane.envoy.config.cluster import v3 as cluster
from envoy_data_plane.envoy.config.route import v3 as route

from mesh.agent import Sidecar, SidecarNotReady
from mesh.contracts.model import Callers, Contract, Locality
from mesh.envoy import ControlPlane, Discovered, discovered
from mesh.envoy.running import compiled as form_of
from mesh.identity.spiffe import OperatorId, WorkloadId
from mesh.xds import (
    SERVER_OPTIONS,
    AdsServer,
    Compiler,
    Fleet,
    Instance,
    Library,
    Revision,
    Snapshot,
)
from mesh.xds.kinds import CLUSTER, LISTENER, ROUTES
from tests.e2e.control import CONTROL, Plane, Said, eventually
from tests.e2e.sidecars import CONTRACT, DOMAIN, SERVICE, SmallMesh, call, status_of

pytestmark = pytest.mark.e2e

ALPHA, BETA, GAMMA = (Instance("eu", name) for name in ("alpha", "beta", "gamma"))
DENIED = grpc.StatusCode.PERMISSION_DENIED


@pytest.fixture
async def plane(mesh: SmallMesh) -> AsyncIterator[Plane]:
    made = Plane(mesh)
    yield made
    await made.stop()


def changed(method: str, **changes: object) -> Contract:
    """The contract with one method changed."""
    service = CONTRACT.services[SERVICE]
    methods = tuple(
        replace(m, **changes) if m.name == method else m  # type: ignore[arg-type]  # names are Method's own
        for m in service.methods
    )
    return replace(
        CONTRACT, services={**CONTRACT.services, SERVICE: replace(service, methods=methods)}
    )


def with_unknown_cluster(found: list[Discovered]) -> list[Discovered]:
    """A route that leads nowhere, which Envoy refuses."""
    for each in found:
        if isinstance(each.message, route.RouteConfiguration) and each.name == "egress":
            first = each.message.virtual_hosts[0].routes[0]
            first.direct_response = None
            first.route = route.RouteAction(cluster="nowhere")
    return found


def snapshot(found: list[Discovered]) -> Snapshot:
    compiler, library = Compiler(), Library()
    return library.snapshot(compiler.encoded(each) for each in found)


async def test_a_change_arrives_and_is_what_was_compiled(mesh: SmallMesh, plane: Plane) -> None:
    ads = await plane.start(plane.revision("r1"))
    await mesh.start(("eu", "beta"), ("eu", "alpha"))
    assert (await ads.acknowledged("r1", [ALPHA, BETA], within=10)).complete
    channel = mesh.egress("eu", "alpha")
    assert (await call(channel, "Echo")).startswith("eu ")
    # Around its own sidecar, on a connection that stays: policy reaches it.
    around = mesh.direct(
        mesh.topology.inbound("eu", "beta"), WorkloadId(DOMAIN, "eu", "alpha"), "beta.eu.mesh.test"
    )
    assert (await call(around, "Echo")).startswith("eu ")

    mesh.contract = changed("Echo", callers=Callers(workloads=frozenset({"gamma"})))
    ads.fleet.offer(plane.revision("r2"))
    outcome = await ads.acknowledged("r2", [ALPHA, BETA], within=5)
    assert outcome.complete, outcome
    assert (await status_of(call(around, "Echo"))) == (DENIED, "RBAC: access denied")
    assert (await status_of(call(channel, "Echo")))[0] == DENIED

    for instance in (ALPHA, BETA):
        said = Said(mesh, instance.region, instance.workload)
        rejected = await said.statistics("update_rejected$")
        assert len(rejected) > 3
        assert not any(rejected.values())
        compiled = {
            (each.type_url, each.name): (
                Compiler().encoded(each).version,
                form_of(each.name, each.message).value,
            )
            for each in discovered(mesh.contract, mesh.topology, instance.region, instance.workload)
            if each.type_url in (CLUSTER, ROUTES, LISTENER)
        }
        assert await said.discovered() == compiled


async def test_what_is_rejected_is_told_and_does_no_harm(mesh: SmallMesh, plane: Plane) -> None:
    good = plane.revision("good")
    ads = await plane.start(good)
    await mesh.start(("eu", "beta"), ("eu", "alpha"))
    assert (await ads.acknowledged("good", [ALPHA, BETA], within=10)).complete
    bad = {
        each: snapshot(
            with_unknown_cluster(
                discovered(mesh.contract, mesh.topology, each.region, each.workload)
            )
        )
        for each in (ALPHA, GAMMA)
    }
    ads.fleet.offer(Revision("bad", {**good.snapshots, **bad}))
    outcome = await ads.acknowledged("bad", [ALPHA, BETA], within=5)
    (rejection,) = outcome.rejected.values()
    assert "nowhere" in rejection.text
    assert rejection.names == ("egress",)
    (view,) = [v for v in ads.fleet.views() if v.instance == ALPHA]
    (table,) = [t for t in view.types if t.type_url == ROUTES]
    assert (view.revision, view.acknowledged) == ("bad", "good")
    assert table.rejection == rejection
    assert table.sent == bad[ALPHA][ROUTES].version
    assert table.acknowledged == good.snapshots[ALPHA][ROUTES].version
    assert (await call(mesh.egress("eu", "alpha"), "Echo")).startswith("eu ")
    # It is not tried over and over.
    sent = ads.traffic.responses
    counted = await Said(mesh, "eu", "alpha").statistics("rds.egress.update_rejected$")
    assert sum(counted.values()) == 1
    # Who starts now gets what is known to work, and works.
    await mesh.start(("eu", "gamma"))
    assert (await status_of(call(mesh.egress("eu", "gamma"), "Echo")))[0] == DENIED
    assert {v.instance: v.revision for v in ads.fleet.views()}[GAMMA] == "good"
    assert ads.traffic.responses > sent
    # The next one reaches all.
    mesh.contract = changed("Echo", timeout=3.0)
    ads.fleet.offer(plane.revision("better"))
    assert (await ads.acknowledged("better", [ALPHA, BETA, GAMMA], within=5)).complete
    assert (await call(mesh.egress("eu", "alpha"), "Echo")).startswith("eu ")
    counted = await Said(mesh, "eu", "alpha").statistics("rds.egress.update_rejected$")
    assert sum(counted.values()) == 1


async def test_a_restart_of_the_control_plane_is_not_noticed(mesh: SmallMesh, plane: Plane) -> None:
    await plane.start(plane.revision("r1"))
    await mesh.start(("eu", "beta"), ("eu", "alpha"))
    assert plane.ads is not None
    assert (await plane.ads.acknowledged("r1", [ALPHA, BETA], within=10)).complete
    channel = mesh.egress("eu", "alpha")
    before = {each: await _updates(mesh, each) for each in (ALPHA, BETA)}
    assert all(before.values())
    await plane.stop()
    for _ in range(20):
        assert (await call(channel, "Echo")).startswith("eu ")
    ads = await plane.start(plane.revision("r1"))
    outcome = await ads.acknowledged("r1", [ALPHA, BETA], within=15)
    assert outcome.complete, outcome
    assert ads.traffic.resources == 0
    assert {each: await _updates(mesh, each) for each in (ALPHA, BETA)} == before
    assert (await call(channel, "Echo")).startswith("eu ")
    # What changed while nobody served is all that is sent.
    await plane.stop()
    mesh.contract = changed("Echo", timeout=3.0)
    ads = await plane.start(plane.revision("r2"))
    assert (await ads.acknowledged("r2", [ALPHA, BETA], within=15)).complete
    assert ads.traffic.resources == 2  # the callee's table and the caller's
    assert (await call(channel, "Echo")).startswith("eu ")


async def test_clusters_come_change_and_go_under_load(mesh: SmallMesh, plane: Plane) -> None:
    ads = await plane.start(plane.revision("r0"))
    await mesh.start(("eu", "beta"), ("eu", "alpha"))
    assert (await ads.acknowledged("r0", [ALPHA, BETA], within=10)).complete
    channel = mesh.egress("eu", "alpha")
    calls, ended = 0, asyncio.Event()

    async def load() -> None:
        nonlocal calls
        while not ended.is_set():
            assert (await call(channel, "Echo")).startswith("eu ")
            calls += 1

    def moved(timeout: float) -> list[Discovered]:
        """Each way to others with another timeout: the clusters change, their endpoints do not."""
        found = discovered(mesh.contract, mesh.topology, "eu", "alpha")
        for each in found:
            if isinstance(each.message, cluster.Cluster) and each.needs:
                each.message.connect_timeout = timedelta(seconds=timeout)
        return found

    async with asyncio.TaskGroup() as group:
        group.create_task(load())
        seen: list[set[str]] = []
        for number, locality in enumerate((Locality.LOCAL, Locality.NEAREST) * 3):
            mesh.contract = everywhere(locality)
            base = plane.revision(f"m{number}")
            for name, timeout in ((f"m{number}", None), (f"t{number}", 3.0 + number)):
                own = (
                    base.snapshots
                    if timeout is None
                    else {**base.snapshots, ALPHA: snapshot(moved(timeout))}
                )
                ads.fleet.offer(Revision(name, own))
                # Envoy waits 15 s for endpoints that do not come behind their cluster.
                outcome = await ads.acknowledged(name, [ALPHA, BETA], within=5)
                assert outcome.complete, outcome
            found = await Said(mesh, "eu", "alpha").discovered()
            seen.append({name for type_url, name in found if type_url == CLUSTER})
        ended.set()
    assert calls > 20
    assert "beta/local" in seen[0]
    assert "beta/nearest" not in seen[0]
    assert "beta/nearest" in seen[1]
    rejected = await Said(mesh, "eu", "alpha").statistics("update_rejected$")
    assert not any(rejected.values())


def everywhere(locality: Locality) -> Contract:
    """The contract with all that is called nearest called here."""
    service = CONTRACT.services[SERVICE]
    methods = tuple(
        replace(m, locality=locality) if m.locality is Locality.NEAREST else m
        for m in service.methods
    )
    return replace(
        CONTRACT, services={**CONTRACT.services, SERVICE: replace(service, methods=methods)}
    )


async def _updates(mesh: SmallMesh, instance: Instance) -> dict[str, int]:
    said = Said(mesh, instance.region, instance.workload)
    return await said.statistics(r"(cds|lds|rds.*|eds|cluster\..*)\.update_success$")


async def test_nobody_gets_what_is_anothers(mesh: SmallMesh, plane: Plane) -> None:
    ads = await plane.start(plane.revision("r1"))
    await mesh.start(("eu", "alpha"))
    assert (await ads.acknowledged("r1", [ALPHA], within=10)).complete

    async def ask(channel: grpc.aio.Channel) -> bytes:
        method = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
        stream = channel.stream_stream(method)(timeout=5)
        # Field 2, the node, whose id is beta's; field 4, the type.
        node = b"\x0a\x07eu/beta"
        request = b"\x12" + bytes([len(node)]) + node
        await stream.write(request + b"\x22" + bytes([len(LISTENER)]) + LISTENER.encode())
        answer = await stream.read()
        stream.cancel()
        return bytes(answer)

    as_gamma = mesh.direct(plane.address, WorkloadId(DOMAIN, "eu", "gamma"), CONTROL.dns_name)
    listeners = snapshot(discovered(mesh.contract, mesh.topology, "eu", "gamma"))[LISTENER]
    answer = await ask(as_gamma)
    assert all(each.whole in answer for each in listeners.values())
    operator = mesh.direct(plane.address, OperatorId(DOMAIN, "first"), CONTROL.dns_name)
    code, details = await status_of(ask(operator))
    assert (code, "is no workload of mesh.test" in details) == (DENIED, True)
    stranger = mesh.direct(plane.address, WorkloadId(DOMAIN, "eu", "stranger"), CONTROL.dns_name)
    code, details = await status_of(ask(stranger))
    assert (code, details) == (DENIED, "revision r1 has nothing for eu/stranger")
    nobody = mesh.direct(plane.address, None, CONTROL.dns_name)
    assert (await status_of(ask(nobody)))[0] == grpc.StatusCode.UNAVAILABLE


async def test_without_a_control_plane_a_sidecar_does_not_start(
    mesh: SmallMesh, plane: Plane
) -> None:
    place = mesh.place("eu", "alpha")
    mesh.credentials(WorkloadId(DOMAIN, "eu", "alpha")).write(place.identity)
    sidecar = Sidecar(mesh.contract, mesh.topology, place, control=mesh.control)
    with pytest.raises(SidecarNotReady, match=f"no control plane answers at {plane.address}"):
        await sidecar.start(ready_within=1.0)
    assert sidecar.pid is None


async def test_a_control_plane_that_is_somebody_else_is_not_believed(
    mesh: SmallMesh, plane: Plane
) -> None:
    ads = await plane.start(plane.revision("r1"))
    mesh.control = ControlPlane(plane.address, WorkloadId(DOMAIN, "us", "control"))
    with pytest.raises(SidecarNotReady):
        place = mesh.place("eu", "alpha")
        mesh.credentials(WorkloadId(DOMAIN, "eu", "alpha")).write(place.identity)
        sidecar = Sidecar(mesh.contract, mesh.topology, place, control=mesh.control)
        await sidecar.start(ready_within=1.0)
    assert not ads.fleet.views()


async def test_a_control_plane_on_the_own_host_is_reached_by_a_socket(mesh: SmallMesh) -> None:
    server = grpc.aio.server(options=SERVER_OPTIONS)
    revision = Compiler().revision("r1", mesh.contract, mesh.topology)
    ads = AdsServer(Fleet(revision), lambda peer: ALPHA)
    ads.add_to(server)
    socket = mesh.run / "ads.sock"
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    mesh.control = ControlPlane(socket)
    await mesh.start(("eu", "alpha"))
    assert (await ads.acknowledged("r1", [ALPHA], within=10)).complete
    await mesh.sidecars["eu", "alpha"].kill()
    await server.stop(None)


async def test_who_is_gone_is_no_longer_counted(mesh: SmallMesh, plane: Plane) -> None:
    ads = await plane.start(plane.revision("r1"))
    await mesh.start(("eu", "alpha"))
    assert (await ads.acknowledged("r1", [ALPHA], within=10)).complete
    await mesh.sidecars["eu", "alpha"].kill()

    async def gone() -> bool:
        return not ads.fleet.views()

    await eventually(gone)
    await mesh.sidecars["eu", "alpha"].start()
    assert (await ads.acknowledged("r1", [ALPHA], within=10)).complete
