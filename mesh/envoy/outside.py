"""What an edge asks of clients, so that none of them, slow, greedy or broken, costs the others.

How long a call may take is the contract's matter: a request whose body never ends is cut at its
method's deadline, and one of a stream at its greatest age.
"""

from __future__ import annotations

from datetime import timedelta

from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.extensions.filters.http.buffer import v3 as buffer
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm
from envoy_data_plane.google.protobuf import Any

from mesh.contracts.model import Method, RateLimit
from mesh.envoy import limits
from mesh.envoy.text import Packed

MOST_BODY = 4 * 1024 * 1024 + 1024
"""Bytes of a request that does not stream: one message as large as gRPC takes, and its frame."""
MOST_HEADERS_KB = 16
MOST_HEADERS = 64
MOST_STREAMS = 128
"""Calls at once on one connection."""
CONNECTION_BUFFER = 256 * 1024
HEADERS_WITHIN = timedelta(seconds=10)
"""From a request's first byte to the end of its headers."""
UNREAD = timedelta(minutes=1)
"""How long a response waits for a client that does not read it."""
RATE = RateLimit(per_second=500, burst=1000)
"""Requests on one connection."""

_BUFFER = "envoy.filters.http.buffer"
_WINDOW = 256 * 1024


def protect(manager: hcm.HttpConnectionManager) -> None:
    """Bounds on headers, streams, buffers and silence of whoever connects."""
    manager.max_request_headers_kb = MOST_HEADERS_KB
    manager.request_headers_timeout = HEADERS_WITHIN
    manager.stream_flush_timeout = UNREAD
    common, http2 = manager.common_http_protocol_options, manager.http2_protocol_options
    assert common is not None and http2 is not None  # noqa: S101 - every manager has both
    common.max_headers_count = MOST_HEADERS
    # Some servers take `a_b` for `a-b`: nobody shall pass one header off as another.
    common.headers_with_underscores_action = (
        core.HttpProtocolOptionsHeadersWithUnderscoresAction.REJECT_REQUEST
    )
    http2.max_concurrent_streams = MOST_STREAMS
    http2.initial_stream_window_size = _WINDOW
    http2.initial_connection_window_size = 4 * _WINDOW


def rate() -> hcm.HttpFilter:
    """A bucket for each connection: nobody uses up another's."""
    return limits.each_connection("edge", RATE)


def bodies() -> hcm.HttpFilter:
    """Holds requests until they are complete, or too large."""
    return hcm.HttpFilter(
        name=_BUFFER, typed_config=Packed(buffer.Buffer(max_request_bytes=MOST_BODY))
    )


def body_of(method: Method) -> dict[str, Any]:
    """A route's `typed_per_filter_config`: what streams is not held; each message has its limit."""
    return unheld() if method.client_streaming else {}


def unheld() -> dict[str, Any]:
    """For a route whose requests may stream."""
    return {_BUFFER: Packed(buffer.BufferPerRoute(disabled=True))}
