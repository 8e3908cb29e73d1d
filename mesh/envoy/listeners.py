"""Listeners: inbound and enrolment of a workload's sidecar, egress, an edge."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path

from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.listener import v3 as listener
from envoy_data_plane.envoy.config.route import v3 as route
from envoy_data_plane.envoy.extensions.filters.http.buffer import v3 as buffer
from envoy_data_plane.envoy.extensions.filters.http.health_check import v3 as health_check
from envoy_data_plane.envoy.extensions.filters.http.router import v3 as router
from envoy_data_plane.envoy.extensions.filters.network.connection_limit import v3 as connections
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm
from envoy_data_plane.envoy.type.matcher import v3 as matcher

from mesh.contracts.model import Contract, Method, RateLimit
from mesh.envoy import (
    browsers,
    clusters,
    commands,
    drills,
    hold,
    jwt,
    limits,
    outside,
    payloads,
    rbac,
    replies,
    telemetry,
    tls,
    transcoding,
    vouching,
)
from mesh.envoy.text import Packed
from mesh.place import Place
from mesh.topology import Address, Topology

INBOUND = "inbound"
EGRESS = "egress"
EDGE = "edge"
ENROLMENT = "enrolment"

_Details = hcm.HttpConnectionManagerForwardClientCertDetails
_MOST_STREAMS = 1024
# A certificate lasts an hour; no connection outlives the one it began with by more than half of
# that. Envoy drains the connection then, and waits for its streams.
_MAX_CONNECTION = timedelta(minutes=30)
IDLE = timedelta(seconds=30)
"""How long a connection without calls is kept. Envoy ends it in two steps, so that no call is on
its way then; one that ends with its Envoy has no such steps."""
GOODBYE = timedelta(seconds=5)
"""Between those two steps, which are HTTP/2's two GOAWAY (RFC 9113, 6.8)."""
# Nothing legitimate retries enrolment faster than this; a guesser of tokens gets nowhere.
_ENROLMENTS = RateLimit(per_second=20, burst=100)
# Who enrols has proved nothing yet: a token and a signing request are a few hundred bytes.
_ENROLMENT_BYTES = 64 * 1024
_ENROLMENT_CONNECTIONS = 256
_ENROLMENT_IDLE = timedelta(seconds=10)


def inbound(
    address: Address,
    place: Place,
    sds: Path,
    routes: route.RouteConfiguration,
    methods: Iterable[Method],
    revoked: Iterable[str] = (),
) -> listener.Listener:
    """mTLS from other sidecars; the peer is appended to `x-forwarded-client-cert`."""
    # Who may not call takes no token from those who may.
    filters = [rbac.deny_all(), limits.by_route(), _health_check(), hold.calls(), payloads.tap()]
    manager = _manager(place, INBOUND, routes, filters, methods)
    manager.forward_client_cert_details = _Details.APPEND_FORWARD
    _name_peer(manager)
    found = _tcp(INBOUND, address, place, sds, manager, tls.ClientCertificate.REQUIRED)
    found.filter_chains[0].filters[:0] = rbac.shut_out(revoked)
    return found


def edge(
    address: Address,
    place: Place,
    sds: Path,
    routes: route.RouteConfiguration,
    contract: Contract,
    topology: Topology,
) -> listener.Listener:
    """TLS from operators and devices; whatever they claim about themselves is replaced."""
    access = topology.access
    role = None if access.jwt is None else access.jwt.operators
    filters = [
        outside.rate(),
        *browsers.filters(),
        *([] if access.jwt is None else [jwt.tokens(access.jwt)]),
        *([] if (json := transcoding.json(contract)) is None else [json]),
        # From here on, what came as JSON is the same as what came by gRPC.
        *([] if role is None else [jwt.operators(role)]),
        rbac.deny_all(),
        vouching.principals(topology),
        outside.bodies(),
    ]
    manager = _manager(place, EDGE, routes, filters, contract.methods())
    manager.forward_client_cert_details = _Details.SANITIZE_SET
    # The subject says when a device enrolled: what was deleted since is refused.
    _name_peer(manager, subject=True)
    outside.protect(manager)
    client = tls.ClientCertificate
    asked = client.REQUIRED if access.certificates_only else client.OPTIONAL
    found = _tcp(EDGE, address, place, sds, manager, asked)
    found.filter_chains[0].filters[:0] = rbac.shut_out(topology.revoked)
    found.per_connection_buffer_limit_bytes = outside.CONNECTION_BUFFER
    return found


def enrolment(
    address: Address, place: Place, sds: Path, routes: route.RouteConfiguration
) -> listener.Listener:
    """Server-authenticated TLS alone, limited in all respects; no identity is passed on."""
    manager = _manager(
        place, ENROLMENT, routes, [limits.everywhere(ENROLMENT, _ENROLMENTS), _small_requests()], ()
    )
    if manager.common_http_protocol_options is not None:
        manager.common_http_protocol_options.idle_timeout = _ENROLMENT_IDLE
    found = _tcp(ENROLMENT, address, place, sds, manager, tls.ClientCertificate.IGNORED)
    found.filter_chains[0].filters.insert(0, _few_connections())
    # Its connections are counted by themselves: strangers take none from those who have a name.
    found.ignore_global_conn_limit = True
    return found


def egress(
    place: Place, routes: route.RouteConfiguration, methods: Iterable[Method]
) -> listener.Listener:
    """Plaintext HTTP/2 from the application, over a socket that only its user can reach."""
    manager = _manager(place, EGRESS, routes, [], methods)
    return listener.Listener(
        name=EGRESS,
        address=core.Address(pipe=core.Pipe(path=str(place.egress_socket), mode=0o600)),
        filter_chains=[listener.FilterChain(filters=[_network_filter(manager)])],
        traffic_direction=core.TrafficDirection.OUTBOUND,
        # The application calls on while others fill the limit from outside.
        ignore_global_conn_limit=True,
    )


def _manager(
    place: Place,
    name: str,
    routes: route.RouteConfiguration,
    filters: list[hcm.HttpFilter],
    methods: Iterable[Method],
) -> hcm.HttpConnectionManager:
    return hcm.HttpConnectionManager(
        stat_prefix=name,
        route_config=routes,
        http_filters=[*filters, *drills.filters(), telemetry.statistics(methods), _router()],
        access_log=[telemetry.access_log(place, name)],
        local_reply_config=replies.truthful(),
        tracing=telemetry.tracing(place),
        early_header_mutation_extensions=[commands.dropped()],
        use_remote_address=True,
        skip_xff_append=True,
        internal_address_config=hcm.HttpConnectionManagerInternalAddressConfig(),
        forward_client_cert_details=_Details.SANITIZE,
        normalize_path=True,
        path_with_escaped_slashes_action=(
            hcm.HttpConnectionManagerPathWithEscapedSlashesAction.REJECT_REQUEST
        ),
        stream_idle_timeout=timedelta(0),
        drain_timeout=GOODBYE,
        common_http_protocol_options=core.HttpProtocolOptions(
            idle_timeout=IDLE, max_connection_duration=_MAX_CONNECTION
        ),
        http2_protocol_options=core.Http2ProtocolOptions(
            max_concurrent_streams=_MOST_STREAMS,
            connection_keepalive=core.KeepaliveSettings(
                interval=clusters.KEEPALIVE_INTERVAL, timeout=clusters.KEEPALIVE_TIMEOUT
            ),
        ),
    )


def _name_peer(manager: hcm.HttpConnectionManager, *, subject: bool = False) -> None:
    manager.set_current_client_cert_details = hcm.HttpConnectionManagerSetCurrentClientCertDetails(
        uri=True, subject=True if subject else None
    )


def _tcp(
    name: str,
    address: Address,
    place: Place,
    sds: Path,
    manager: hcm.HttpConnectionManager,
    client: tls.ClientCertificate,
) -> listener.Listener:
    return listener.Listener(
        name=name,
        address=clusters.socket_address(address),
        # With SO_REUSEPORT a second process would share the port in silence.
        enable_reuse_port=False,
        filter_chains=[
            listener.FilterChain(
                transport_socket=tls.downstream(sds, client),
                transport_socket_connect_timeout=timedelta(seconds=10),
                filters=[_network_filter(manager)],
            )
        ],
        traffic_direction=core.TrafficDirection.INBOUND,
    )


def _network_filter(manager: hcm.HttpConnectionManager) -> listener.Filter:
    return listener.Filter(
        name="envoy.filters.network.http_connection_manager", typed_config=Packed(manager)
    )


def _router() -> hcm.HttpFilter:
    return hcm.HttpFilter(name="envoy.filters.http.router", typed_config=Packed(router.Router()))


def _health_check() -> hcm.HttpFilter:
    """Passes health checks on to the application, and fails them itself while draining.

    Every answer then tells the caller's sidecar to go elsewhere at once.
    """
    config = health_check.HealthCheck(
        pass_through_mode=True,
        headers=[
            route.HeaderMatcher(
                name=":path",
                string_match=matcher.StringMatcher(exact="/grpc.health.v1.Health/Check"),
            )
        ],
    )
    return hcm.HttpFilter(name="envoy.filters.http.health_check", typed_config=Packed(config))


def _few_connections() -> listener.Filter:
    config = connections.ConnectionLimit(
        stat_prefix=ENROLMENT, max_connections=_ENROLMENT_CONNECTIONS
    )
    return listener.Filter(
        name="envoy.filters.network.connection_limit", typed_config=Packed(config)
    )


def _small_requests() -> hcm.HttpFilter:
    config = buffer.Buffer(max_request_bytes=_ENROLMENT_BYTES)
    return hcm.HttpFilter(name="envoy.filters.http.buffer", typed_config=Packed(config))
