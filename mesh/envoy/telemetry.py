"""Access logs, spans and gRPC statistics: who called what, how it went, never what was said."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from envoy_data_plane.envoy.config.accesslog import v3 as accesslog
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.route import v3 as route
from envoy_data_plane.envoy.config.trace import v3 as trace
from envoy_data_plane.envoy.extensions.access_loggers.file import v3 as file_log
from envoy_data_plane.envoy.extensions.filters.http.grpc_stats import v3 as grpc_stats
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm
from envoy_data_plane.envoy.type import v3 as types
from envoy_data_plane.envoy.type.matcher import v3 as matcher
from envoy_data_plane.google.protobuf import Struct

from mesh.contracts.model import Method
from mesh.envoy import clusters
from mesh.envoy.text import Packed
from mesh.place import Place

ACCESS_LOG = "access.log"


def access_log(place: Place, listener: str) -> accesslog.AccessLog:
    """One JSON line a call, health checks aside: peers ask those every other second."""
    return accesslog.AccessLog(
        name="envoy.access_loggers.file",
        filter=accesslog.AccessLogFilter(
            header_filter=accesslog.HeaderFilter(
                header=route.HeaderMatcher(
                    name=":path",
                    string_match=matcher.StringMatcher(prefix="/grpc.health.v1.Health/"),
                    invert_match=True,
                )
            )
        ),
        typed_config=Packed(
            file_log.FileAccessLog(
                path=str(place.logs / ACCESS_LOG),
                log_format=core.SubstitutionFormatString(
                    json_format=Struct.from_dict(
                        {
                            "time": "%START_TIME%",
                            "listener": listener,
                            "authority": "%REQ(:AUTHORITY)%",
                            "path": "%REQ(:PATH)%",
                            "status": "%RESPONSE_CODE%",
                            "grpc_status": "%GRPC_STATUS%",
                            "details": "%RESPONSE_CODE_DETAILS%",
                            "flags": "%RESPONSE_FLAGS%",
                            "duration_ms": "%DURATION%",
                            "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
                            "bytes_received": "%BYTES_RECEIVED%",
                            "bytes_sent": "%BYTES_SENT%",
                            "peer": "%DOWNSTREAM_PEER_URI_SAN%",
                            "upstream": "%UPSTREAM_CLUSTER%",
                            "upstream_host": "%UPSTREAM_HOST%",
                            "traceparent": "%REQ(TRACEPARENT)%",
                            "request_id": "%REQ(X-REQUEST-ID)%",
                        }
                    )
                ),
            )
        ),
    )


def tracing(place: Place) -> hcm.HttpConnectionManagerTracing | None:
    """Spans of every call, in OTLP, if the place names a collector."""
    if place.otlp is None:
        return None
    everything = types.Percent(value=100.0)
    config = trace.OpenTelemetryConfig(
        grpc_service=core.GrpcService(
            envoy_grpc=core.GrpcServiceEnvoyGrpc(cluster_name=clusters.COLLECTOR),
            timeout=timedelta(seconds=1),
        ),
        service_name=f"{place.workload}-sidecar",
    )
    return hcm.HttpConnectionManagerTracing(
        provider=trace.TracingHttp(name="envoy.tracers.opentelemetry", typed_config=Packed(config)),
        client_sampling=everything,
        random_sampling=everything,
        overall_sampling=everything,
    )


def statistics(methods: Iterable[Method]) -> hcm.HttpFilter:
    """gRPC statistics of the contract's methods: a caller cannot make up new ones."""
    by_service: dict[str, set[str]] = {}
    for method in methods:
        by_service.setdefault(method.service, set()).add(method.name)
    config = grpc_stats.FilterConfig(
        individual_method_stats_allowlist=core.GrpcMethodList(
            services=[
                core.GrpcMethodListService(name=service, method_names=sorted(names))
                for service, names in sorted(by_service.items())
            ]
        )
    )
    return hcm.HttpFilter(name="envoy.filters.http.grpc_stats", typed_config=Packed(config))
