"""How many calls pass: token buckets in a sidecar's listeners and routes."""

from __future__ import annotations

import base64
import math
from datetime import timedelta

from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.extensions.filters.http.local_ratelimit import v3 as ratelimit
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm
from envoy_data_plane.envoy.type import v3 as types
from envoy_data_plane.google.protobuf import Any
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

from mesh.contracts.model import ERROR_DOMAIN, Method, RateLimit
from mesh.envoy.text import Packed

FILTER = "envoy.filters.http.local_ratelimit"
REASON = "RATE_LIMITED"
_MESSAGE = "local_rate_limited"
"""What Envoy says; the details repeat it, or clients would take them for another error's."""


def everywhere(name: str, limit: RateLimit) -> hcm.HttpFilter:
    """One bucket for all requests of a listener."""
    return _filter(_bucket(name, limit))


def each_connection(name: str, limit: RateLimit) -> hcm.HttpFilter:
    """One bucket for each connection of a listener."""
    config = _bucket(name, limit)
    config.local_rate_limit_per_downstream_connection = True
    return _filter(config)


def by_route() -> hcm.HttpFilter:
    """Lets everything pass but what a route limits."""
    return _filter(ratelimit.LocalRateLimit(stat_prefix="methods"))


def of(method: Method) -> dict[str, Any]:
    """A route's `typed_per_filter_config`: the method's own bucket, if the contract has one."""
    if method.rate_limit is None:
        return {}
    config = _bucket(method.path[1:], method.rate_limit)
    config.response_headers_to_add = [
        core.HeaderValueOption(
            header=core.HeaderValue(key="grpc-status-details-bin", value=_details(method)),
            append_action=core.HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD,
        )
    ]
    return {FILTER: Packed(config)}


def retry_delay(limit: RateLimit) -> timedelta:
    """After how long there is a token again."""
    return timedelta(milliseconds=math.ceil(1000 / limit.per_second))


def _details(method: Method) -> str:
    assert method.rate_limit is not None  # noqa: S101 # the caller looked
    again = error_details_pb2.RetryInfo()
    again.retry_delay.FromTimedelta(retry_delay(method.rate_limit))
    info = error_details_pb2.ErrorInfo(
        reason=REASON,
        domain=ERROR_DOMAIN,
        metadata={
            "method": method.path[1:],
            "per_second": str(method.rate_limit.per_second),
            "burst": str(method.rate_limit.burst),
        },
    )
    status = status_pb2.Status(code=code_pb2.RESOURCE_EXHAUSTED, message=_MESSAGE)
    for detail in (info, again):
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    # As gRPC writes binary metadata: without padding.
    return base64.b64encode(status.SerializeToString(deterministic=True)).decode().rstrip("=")


def _bucket(name: str, limit: RateLimit) -> ratelimit.LocalRateLimit:
    always = core.RuntimeFractionalPercent(default_value=types.FractionalPercent(numerator=100))
    return ratelimit.LocalRateLimit(
        stat_prefix=name,
        token_bucket=types.TokenBucket(
            max_tokens=limit.burst,
            tokens_per_fill=limit.per_second,
            fill_interval=timedelta(seconds=1),
        ),
        filter_enabled=always,
        filter_enforced=always,
        rate_limited_as_resource_exhausted=True,
    )


def _filter(config: ratelimit.LocalRateLimit) -> hcm.HttpFilter:
    return hcm.HttpFilter(name=FILTER, typed_config=Packed(config))
