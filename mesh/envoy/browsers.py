"""Browsers at an edge: gRPC-Web, and which pages' scripts may call (CORS).

A browser sends its user's certificate along with whatever a page asks for, so an edge refuses
every request that names an origin which `mesh.yaml` does not: asking browsers to hide the answer
would be too late for a write.
"""

from __future__ import annotations

from datetime import timedelta

from envoy_data_plane.envoy.config.route import v3 as route
from envoy_data_plane.envoy.extensions.filters.http.cors import v3 as cors
from envoy_data_plane.envoy.extensions.filters.http.grpc_web import v3 as grpc_web
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm
from envoy_data_plane.envoy.type.matcher import v3 as matcher
from envoy_data_plane.google.protobuf import Any

from mesh.access import Access
from mesh.envoy.text import Packed

_CORS = "envoy.filters.http.cors"
_REMEMBERED = timedelta(minutes=10)
_SENT = (
    "authorization",
    "content-type",
    "grpc-timeout",
    "isthmus-token-bin",
    "traceparent",
    "x-grpc-web",
    "x-isthmus-home",
    "x-isthmus-workload",
    "x-user-agent",
)
_READ = ("grpc-message", "grpc-status", "grpc-status-details-bin", "isthmus-token-bin")


def filters() -> list[hcm.HttpFilter]:
    """What answers a browser's question about its page, and what speaks its form of gRPC."""
    return [
        hcm.HttpFilter(name=_CORS, typed_config=Packed(cors.Cors())),
        hcm.HttpFilter(name="envoy.filters.http.grpc_web", typed_config=Packed(grpc_web.GrpcWeb())),
    ]


def policy(access: Access) -> dict[str, Any]:
    """A virtual host's `typed_per_filter_config`: the origins of `mesh.yaml`, and no others."""
    if not access.origins:
        return {}
    config = cors.CorsPolicy(
        allow_origin_string_match=[matcher.StringMatcher(exact=each) for each in access.origins],
        allow_methods="GET, POST, PUT, PATCH, DELETE",
        allow_headers=", ".join(_SENT),
        expose_headers=", ".join(_READ),
        max_age=str(int(_REMEMBERED.total_seconds())),
        # Operators' certificates count as credentials.
        allow_credentials=True,
    )
    return {_CORS: Packed(config)}


def strange(access: Access) -> route.RouteMatch:
    """Requests of all other pages."""
    others = [
        route.HeaderMatcher(
            name="origin", string_match=matcher.StringMatcher(exact=each), invert_match=True
        )
        for each in access.origins
    ]
    return route.RouteMatch(
        prefix="/", headers=[route.HeaderMatcher(name="origin", present_match=True), *others]
    )
