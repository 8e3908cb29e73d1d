"""Resources for gRPC's own xDS clients, written by hand: one listener, one route, one cluster."""

from __future__ import annotations

from collections.abc import Iterable

from envoy_data_plane.envoy.config.cluster import v3 as cluster
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.endpoint import v3 as endpoint
from envoy_data_plane.envoy.config.listener import v3 as listener
from envoy_data_plane.envoy.config.route import v3 as route
from envoy_data_plane.envoy.extensions.filters.http.router import v3 as router
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm

from mesh.envoy import Discovered
from mesh.envoy.clusters import socket_address
from mesh.envoy.discovery import from_ads
from mesh.envoy.text import Packed
from mesh.topology import Address
from mesh.xds import Compiler, Instance, Library, Revision
from mesh.xds.kinds import CLUSTER, ENDPOINTS, ROUTES

TARGET = "greeter"
CLIENT = Instance("eu", "client")


def revision(name: str, backends: Iterable[Address], *, policy: str = "") -> Revision:
    """All calls to `xds:///greeter` go to these backends in turn, or by another `policy`."""
    assignment = endpoint.ClusterLoadAssignment(
        cluster_name="backends",
        endpoints=[
            endpoint.LocalityLbEndpoints(
                locality=core.Locality(region="eu"),
                load_balancing_weight=1,  # without one, gRPC leaves the locality out
                lb_endpoints=[
                    endpoint.LbEndpoint(endpoint=endpoint.Endpoint(address=socket_address(each)))
                    for each in backends
                ],
            )
        ],
    )
    backends_cluster = cluster.Cluster(
        name="backends",
        type=cluster.ClusterDiscoveryType.EDS,
        eds_cluster_config=cluster.ClusterEdsClusterConfig(eds_config=from_ads()),
    )
    if policy:
        backends_cluster.lb_policy = cluster.ClusterLbPolicy[policy]
    table = route.RouteConfiguration(
        name="table",
        virtual_hosts=[
            route.VirtualHost(
                name="all",
                domains=[TARGET],
                routes=[
                    route.Route(
                        match=route.RouteMatch(prefix=""),
                        route=route.RouteAction(cluster="backends"),
                    )
                ],
            )
        ],
    )
    manager = hcm.HttpConnectionManager(
        rds=hcm.Rds(config_source=from_ads(), route_config_name="table"),
        http_filters=[hcm.HttpFilter(name="router", typed_config=Packed(router.Router()))],
    )
    front = listener.Listener(
        name=TARGET, api_listener=listener.ApiListener(api_listener=Packed(manager))
    )
    found = [
        Discovered("backends", assignment),
        Discovered("backends", backends_cluster, ((ENDPOINTS, "backends"),)),
        Discovered("table", table, ((CLUSTER, "backends"),)),
        Discovered(TARGET, front, ((ROUTES, "table"),)),
    ]
    encoded = Compiler().encoded
    return Revision(name, {CLIENT: Library().snapshot([encoded(each) for each in found])})
