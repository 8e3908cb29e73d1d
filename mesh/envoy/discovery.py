"""The same parts as resources that a sidecar discovers, each by itself: xDS instead of one file.

Routes leave their listeners and endpoints their clusters, so that a change of either is one small
resource, and reaches connections that are open. Paths are relative to the folder that Envoy runs
in: what is served depends on the contract, the topology and who asks, never on the disk of who
asks. So all instances of a workload in a region share one set, and all of a region most clusters.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import betterproto2
from envoy_data_plane.envoy.config.cluster import v3 as cluster
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.endpoint import v3 as endpoint
from envoy_data_plane.envoy.config.listener import v3 as listener
from envoy_data_plane.envoy.config.route import v3 as route
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm

from mesh.contracts.model import Contract
from mesh.envoy import clusters
from mesh.envoy.parts import Message, Part, parts
from mesh.envoy.target import Target
from mesh.envoy.text import Packed, type_url
from mesh.place import Place, workload_and_version
from mesh.topology import Topology

STATE = "state"
"""In the folder that a discovering Envoy runs in (`Place.run`), a link to `Place.state`."""

FOR_EVER = timedelta(0)
"""How long to wait for what there is no going on without."""


@dataclass(frozen=True)
class Discovered:
    """One resource, and those of other types, as (type, name), that it makes its reader ask for."""

    name: str
    message: betterproto2.Message
    needs: tuple[tuple[str, str], ...] = ()

    @property
    def type_url(self) -> str:
        """The type's name in an `Any`."""
        return type_url(type(self.message))


def relative(place: Place) -> Place:
    """The place as seen by an Envoy that runs in `place.run`."""
    return replace(place, run=Path(), state=Path(STATE))


def discovered(
    contract: Contract, topology: Topology, region: str, instance: str
) -> list[Discovered]:
    """All that the sidecar of an instance, or a region's edge, gets by xDS.

    Raises `EnvoyConfigError` if the topology has no such workload.
    """

    def maker(
        _key: Hashable, make: Callable[[], Part]
    ) -> tuple[tuple[Discovered, ...], frozenset[Target]]:
        part = make()
        return split(part.message), part.targets

    found = parts(contract, topology, standing(topology, region, instance), maker)
    return [each for split_part in found for each in split_part]


def standing(topology: Topology, region: str, instance: str) -> Place:
    """Where that instance stands as far as it matters to what it discovers."""
    workload, version = workload_and_version(instance)
    return relative(Place(region, workload, topology.path, Path(), Path(), topology.otlp, version))


def split(message: Message) -> tuple[Discovered, ...]:
    """A part as resources; the message is taken apart."""
    if isinstance(message, cluster.Cluster):
        assignment = message.load_assignment
        if message.name in _ON_THE_OWN_HOST or assignment is None:
            return (Discovered(message.name, message),)
        message.load_assignment = None
        message.type = cluster.ClusterDiscoveryType.EDS
        message.eds_cluster_config = cluster.ClusterEdsClusterConfig(eds_config=from_ads())
        return (
            Discovered(message.name, assignment),
            Discovered(message.name, message, ((_ENDPOINTS, message.name),)),
        )
    manager = _manager(message)
    table = manager.route_config
    if table is None:
        return (Discovered(message.name, message),)
    manager.route_config = None
    # It takes no call before it has its routes.
    manager.rds = hcm.Rds(config_source=from_ads(FOR_EVER), route_config_name=table.name)
    return (
        Discovered(table.name, table),
        Discovered(message.name, message, ((_ROUTES, table.name),)),
    )


def from_ads(within: timedelta | None = None) -> core.ConfigSource:
    """Where a resource comes from: the stream that all come by."""
    return core.ConfigSource(
        ads=core.AggregatedConfigSource(),
        resource_api_version=core.ApiVersion.V3,
        initial_fetch_timeout=within,
    )


def _manager(found: listener.Listener) -> hcm.HttpConnectionManager:
    """A listener's HTTP part, which is its last filter."""
    match found.filter_chains[0].filters[-1].typed_config:
        case Packed(message=hcm.HttpConnectionManager() as manager):
            return manager
    raise TypeError(f"listener {found.name} does not end in an HTTP connection manager")


# Their endpoints are sockets beside them, and never change.
_ON_THE_OWN_HOST = (clusters.APP, clusters.METRICS, clusters.COLLECTOR)
_ENDPOINTS = type_url(endpoint.ClusterLoadAssignment)
_ROUTES = type_url(route.RouteConfiguration)
