"""Contract × Topology × Place -> what one Envoy is made of: listeners with their routes, clusters.

Pure: the same inputs give the same messages.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from envoy_data_plane.envoy.config.cluster import v3 as cluster
from envoy_data_plane.envoy.config.listener import v3 as listener

from mesh.contracts.model import Contract
from mesh.envoy import clusters, listeners, routes
from mesh.envoy.errors import EnvoyConfigError
from mesh.envoy.target import Target
from mesh.place import EDGE, Place
from mesh.topology import Topology


@dataclass(frozen=True)
class Parts:
    """Listeners, the clusters on the own host, and the ways to other workloads."""

    listeners: list[listener.Listener]
    own: list[cluster.Cluster]
    ways: list[cluster.Cluster]


def folder(place: Place) -> Path:
    """Where an Envoy's configuration lives."""
    return place.state / "envoy"


def parts_for(contract: Contract, topology: Topology, place: Place) -> Parts:
    """The parts of whatever stands at `place`: a workload's sidecar or an edge.

    Raises `EnvoyConfigError` if the topology has no such workload.
    """
    made = edge_parts if place.workload == EDGE else sidecar_parts
    return made(contract, topology, place)


def sidecar_parts(contract: Contract, topology: Topology, place: Place) -> Parts:
    """The parts of the Envoy beside a workload. Raises `EnvoyConfigError`."""
    if place.workload not in topology.workloads:
        raise EnvoyConfigError(
            f"no workload {place.workload!r} in {topology.path}: add it to `workloads`"
        )
    sds = folder(place)
    served = routes.inbound(contract, topology, place.region, place.workload)
    called = routes.egress(contract, topology, place.region, place.workload)
    open_ones = routes.enrolment(contract, place.workload)
    found = [
        listeners.inbound(
            topology.inbound(place.region, place.workload),
            place,
            sds,
            served.configuration(listeners.INBOUND),
            routes.served(contract, place.workload),
        ),
        listeners.egress(place, called.configuration(listeners.EGRESS), contract.methods()),
    ]
    if open_ones is not None:
        found.append(
            listeners.enrolment(
                topology.enrolment(place.region),
                place,
                sds,
                open_ones.configuration(listeners.ENROLMENT),
            )
        )
    own = [clusters.app(place), clusters.metrics(place)]
    return _parts(topology, place, found, own, called.targets)


def edge_parts(contract: Contract, topology: Topology, place: Place) -> Parts:
    """The parts of a region's edge: its listener, and an egress for its agent alone."""
    taken = routes.edge(contract, topology)
    called = routes.egress(contract, topology, place.region, EDGE)
    found = [
        listeners.edge(
            topology.edge(place.region),
            place,
            folder(place),
            taken.configuration(listeners.EDGE),
            contract.methods(),
        ),
        listeners.egress(place, called.configuration(listeners.EGRESS), contract.methods()),
    ]
    return _parts(topology, place, found, [], taken.targets | called.targets)


def _parts(
    topology: Topology,
    place: Place,
    found: list[listener.Listener],
    own: list[cluster.Cluster],
    targets: Iterable[Target],
) -> Parts:
    ways = [clusters.upstream_cluster(to, topology, place, folder(place)) for to in sorted(targets)]
    if place.otlp is not None:
        own = [*own, clusters.collector(place.otlp)]
    return Parts(found, own, ways)
