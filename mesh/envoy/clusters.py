"""Clusters: the ways from a sidecar to its own application, to other workloads, to a collector."""

from __future__ import annotations

import ipaddress
from datetime import timedelta
from pathlib import Path

from envoy_data_plane.envoy.config.cluster import v3 as cluster
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.endpoint import v3 as endpoint
from envoy_data_plane.envoy.extensions.upstreams.http import v3 as upstream
from envoy_data_plane.google.protobuf import Struct, Value

from mesh.contracts.model import Locality
from mesh.envoy import resilience, tls
from mesh.envoy.target import Target
from mesh.envoy.text import Packed
from mesh.identity.spiffe import WorkloadId
from mesh.place import Place
from mesh.topology import Address, Topology
from mesh.traffic import Bounds

APP = "app"
METRICS = "metrics"
COLLECTOR = "collector"
CONTROL_PLANE = "control-plane"
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_SOCKET_MATCH = "envoy.transport_socket_match"

# A ping a second, two to answer it: a stalled link is noticed within three seconds.
KEEPALIVE_INTERVAL = timedelta(seconds=1)
KEEPALIVE_TIMEOUT = timedelta(seconds=2)
# Enough for a TLS handshake over a slow link between continents.
_CONNECT_TIMEOUT = timedelta(seconds=2)
_CHECK_INTERVAL = timedelta(seconds=2)
_CHECK_TIMEOUT = timedelta(seconds=1)
# All who wait for the application while it is started again may try again.
_APP = Bounds(retry_percent=100.0)


def app(place: Place) -> cluster.Cluster:
    """The workload's own service, over its Unix socket."""
    return _cluster(APP, [_local([_endpoint(_pipe(place.app_socket))])], _http2(), _APP)


def metrics(place: Place) -> cluster.Cluster:
    """The workload's Prometheus page, in HTTP/1.1."""
    http1 = upstream.HttpProtocolOptions(
        explicit_http_config=upstream.HttpProtocolOptionsExplicitHttpConfig(
            http_protocol_options=core.Http1ProtocolOptions()
        )
    )
    return _cluster(METRICS, [_local([_endpoint(_pipe(place.metrics_socket))])], http1)


def collector(otlp: str) -> cluster.Cluster:
    """Where spans go: an OTLP receiver in plaintext gRPC at host:port."""
    host, _, port = otlp.rpartition(":")
    found = _cluster(
        COLLECTOR, [_local([_endpoint(socket_address(Address(host, int(port))))])], _http2()
    )
    if not _is_ip(host):
        found.type = cluster.ClusterDiscoveryType.STRICT_DNS
    return found


def control_plane(
    address: Address | Path, identity: WorkloadId | None, place: Place, sds: Path
) -> cluster.Cluster:
    """Where the sidecar's configuration comes from: that workload by mTLS, or a Unix socket."""
    where = _pipe(address) if isinstance(address, Path) else socket_address(address)
    found = _cluster(CONTROL_PLANE, [_local([_endpoint(where)])], _http2(keepalive=True))
    if identity is not None:
        found.transport_socket = tls.upstream(sds, identity)
    return found


def upstream_cluster(to: Target, topology: Topology, place: Place, sds: Path) -> cluster.Cluster:
    """The cluster of a target, as seen from `place`."""
    match to.locality:
        case Locality.NEAREST.value:
            return _nearest(to, topology, place, sds)
        case Locality.LOCAL.value:
            return _single(to, place.region, topology, place, sds)
        case _:
            return _single(to, to.region, topology, place, sds)


def _single(
    to: Target, region: str, topology: Topology, place: Place, sds: Path
) -> cluster.Cluster:
    """One region and no other: an ejection or a failed check could only turn calls away."""
    peer = WorkloadId(topology.trust_domain, region, to.workload)
    address = _version(to, topology, place) or topology.route(place.region, region, to.workload)
    here = [_endpoint(socket_address(address))] if peer.uri not in topology.revoked else []
    found = _cluster(
        to.cluster,
        [_locality(region, 0, here)],
        _http2(keepalive=True),
        topology.traffic.bounds_of(to.workload),
    )
    found.transport_socket = tls.upstream(sds, peer)
    return found


def _nearest(to: Target, topology: Topology, place: Place, sds: Path) -> cluster.Cluster:
    """Every region, in failover order. Each endpoint is verified as its own region's workload.

    Outlier detection, health checks and retries together lost no call when a region was killed
    under load; each alone did.
    """
    regions = [
        region
        for region in topology.failover_order(place.region)
        if WorkloadId(topology.trust_domain, region, to.workload).uri not in topology.revoked
    ]
    # It goes by the same name as the workload there.
    version = _version(to, topology, place) if place.region in regions else None
    first = 0 if version is None else 1
    localities: list[endpoint.LocalityLbEndpoints] = []
    matches: list[cluster.ClusterTransportSocketMatch] = []
    for priority, region in enumerate(regions, first):
        peer = WorkloadId(topology.trust_domain, region, to.workload)
        found = _named(region, topology.route(place.region, region, to.workload))
        localities.append(_locality(region, priority, [found]))
        matches.append(
            cluster.ClusterTransportSocketMatch(
                name=region,
                match=_struct(region),
                transport_socket=tls.upstream(sds, peer),
            )
        )
    if version is not None:
        # If it fails, the workload itself is there.
        localities.insert(0, _locality(place.region, 0, [_named(place.region, version)]))
    bounds = topology.traffic.bounds_of(to.workload)
    built = _cluster(to.cluster, localities, _http2(keepalive=True), bounds)
    built.transport_socket_matches = matches
    built.outlier_detection = resilience.outlier_detection(bounds)
    built.health_checks = [_health_check(to.workload)]
    return built


def _version(to: Target, topology: Topology, place: Place) -> Address | None:
    """Where another version listens, in the region of `place`."""
    found = topology.traffic.version(to.workload, place.region, to.version)
    return None if found is None else Address(found.host, found.port)


def _named(region: str, address: Address) -> endpoint.LbEndpoint:
    found = _endpoint(socket_address(address))
    found.metadata = core.Metadata(filter_metadata={_SOCKET_MATCH: _struct(region)})
    return found


def _health_check(workload: str) -> core.HealthCheck:
    return core.HealthCheck(
        timeout=_CHECK_TIMEOUT,
        interval=_CHECK_INTERVAL,
        # Without it Envoy asks an unused cluster once a minute.
        no_traffic_interval=_CHECK_INTERVAL,
        unhealthy_interval=_CHECK_TIMEOUT,
        interval_jitter_percent=20,
        unhealthy_threshold=2,
        healthy_threshold=1,
        # By default the cluster's name, whose slash no HTTP authority may have.
        grpc_health_check=core.HealthCheckGrpcHealthCheck(authority=workload),
    )


def _cluster(
    name: str,
    localities: list[endpoint.LocalityLbEndpoints],
    protocol: upstream.HttpProtocolOptions,
    bounds: Bounds = Bounds(),  # noqa: B008  frozen
) -> cluster.Cluster:
    return cluster.Cluster(
        name=name,
        type=cluster.ClusterDiscoveryType.STATIC,
        connect_timeout=_CONNECT_TIMEOUT,
        load_assignment=endpoint.ClusterLoadAssignment(cluster_name=name, endpoints=localities),
        typed_extension_protocol_options={_HTTP_OPTIONS: Packed(protocol)},
        circuit_breakers=resilience.circuit_breakers(bounds),
    )


def _http2(*, keepalive: bool = False) -> upstream.HttpProtocolOptions:
    options = core.Http2ProtocolOptions()
    if keepalive:
        options.connection_keepalive = core.KeepaliveSettings(
            interval=KEEPALIVE_INTERVAL, timeout=KEEPALIVE_TIMEOUT
        )
    return upstream.HttpProtocolOptions(
        explicit_http_config=upstream.HttpProtocolOptionsExplicitHttpConfig(
            http2_protocol_options=options
        )
    )


def _local(endpoints: list[endpoint.LbEndpoint]) -> endpoint.LocalityLbEndpoints:
    return endpoint.LocalityLbEndpoints(lb_endpoints=endpoints)


def _locality(
    region: str, priority: int, endpoints: list[endpoint.LbEndpoint]
) -> endpoint.LocalityLbEndpoints:
    return endpoint.LocalityLbEndpoints(
        locality=core.Locality(region=region), priority=priority, lb_endpoints=endpoints
    )


def _endpoint(address: core.Address) -> endpoint.LbEndpoint:
    return endpoint.LbEndpoint(endpoint=endpoint.Endpoint(address=address))


def socket_address(address: Address) -> core.Address:
    """A TCP address as Envoy writes it."""
    return core.Address(
        socket_address=core.SocketAddress(address=address.host, port_value=address.port)
    )


def _pipe(path: Path) -> core.Address:
    return core.Address(pipe=core.Pipe(path=str(path)))


def _struct(region: str) -> Struct:
    return Struct(fields={"region": Value(string_value=region)})


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
