"""The control plane's process: `python -m mesh.control.main`, started by `isthmus up`."""

from __future__ import annotations

import asyncio
import sys
import time
import zlib
from collections.abc import Callable

import grpc
from isthmus.mesh.v1.deploy_pb2_grpc import add_DeployServiceServicer_to_server
from isthmus.mesh.v1.inspection_pb2_grpc import add_InspectionServiceServicer_to_server
from isthmus.mesh.v1.rollout_pb2 import DeployedRevision
from isthmus.mesh.v1.sidecars_pb2 import FleetStatus, ObserveFleetRequest
from isthmus.mesh.v1.sidecars_pb2_grpc import (
    SidecarServiceStub,
    add_SidecarServiceServicer_to_server,
)
from isthmus.mesh.v1.tap_pb2_grpc import add_TapServiceServicer_to_server

from mesh.contracts.exceptions import CONTROL
from mesh.control.coordinator import Coordinator
from mesh.control.follower import Follower
from mesh.control.inspections import InspectionService
from mesh.control.reports import Reports
from mesh.control.services import DeployService, SidecarService
from mesh.control.source import Source
from mesh.control.store import Store, StoreDamaged
from mesh.control.tapping import TapService
from mesh.place import VERSION_HEADER, instance_name
from mesh.runtime import Host, caller, own_context, run
from mesh.xds import AdsServer, Fleet, Instance, NotAdmitted, Peer
from mesh.xds.resources import Library
from mesh.xds.wire import SERVICE

_OBSERVED_WITHIN = 3.0


def admit(peer: Peer) -> Instance:
    """The workload whose certificate the control plane's own sidecar has verified.

    Which of its versions it is, it says itself.
    """
    principal = caller()
    if principal.kind != "workload" or principal.region is None:
        raise NotAdmitted(f"{principal} is no workload: sidecars connect with their own identity")
    version = peer.metadata.get(VERSION_HEADER, "")
    return Instance(principal.region, instance_name(principal.name, version))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


async def build(host: Host) -> None:
    """Serves the last good revision; ends the process if the region was not installed."""
    store, library = Store(host.place.data), Library()
    try:
        standing = store.standing()
        if standing is None:
            sys.exit("control: nothing is installed here: `isthmus up` does that")
        fleet = Fleet(store.compiled(standing.good, library))
    except StoreDamaged as error:
        sys.exit(f"control: {error}: `isthmus down` and `isthmus up` install it again")
    ads, reports = AdsServer(fleet, admit), Reports(_now_ms)
    follower = Follower(host.group, fleet, library, store, standing)
    source_of = _sources(host, store)
    sidecars = SidecarService(host.region, fleet, reports, follower, _now_ms, source_of)

    async def observe(region: str, deploy_id: str) -> FleetStatus | None:
        if region == host.region:
            return await sidecars.fleet(calls=True)
        stub = SidecarServiceStub(host.channel(CONTROL, region))
        try:
            answer = await stub.ObserveFleet(
                ObserveFleetRequest(deploy_id=deploy_id), timeout=_OBSERVED_WITHIN
            )
        except grpc.aio.AioRpcError:
            return None
        fleet_there: FleetStatus = answer.fleet
        return fleet_there

    coordinator = Coordinator(
        host.group, host.topology, observe, source_of, lambda: own_context(host.actor)
    )
    host.add(lambda served, server: served.add_to(server), ads, SERVICE)
    host.add(
        add_DeployServiceServicer_to_server,
        DeployService(host.group, coordinator, source_of),
        "isthmus.mesh.v1.DeployService",
    )
    host.add(add_SidecarServiceServicer_to_server, sidecars, "isthmus.mesh.v1.SidecarService")
    host.add(
        add_InspectionServiceServicer_to_server,
        InspectionService(host.region, fleet, store, library, reports, sidecars),
        "isthmus.mesh.v1.InspectionService",
    )
    tapping = TapService(host.region, fleet, reports)
    host.add(add_TapServiceServicer_to_server, tapping, "isthmus.mesh.v1.TapService")

    async def decide() -> None:
        try:
            await coordinator.install(standing.installed, standing.good)
            await asyncio.Event().wait()
        finally:
            # What would not end by itself: calls that wait, streams, a deploy.
            tapping.close()
            reports.release()
            ads.close()
            await coordinator.close()

    host.background("decide", decide())
    host.background("follow", follower.run())
    host.background("watch the home", follower.watch_home())


def _sources(host: Host, store: Store) -> Callable[[str], Source]:
    def source_of(name: str) -> Source:
        """What a revision was made from. Raises `StoreDamaged`."""
        found = host.group.get(DeployedRevision, name)
        if found is not None:
            return Source(zlib.decompress(found.contract), found.topology)
        return store.source(name)

    return source_of


if __name__ == "__main__":
    run(CONTROL, build)
