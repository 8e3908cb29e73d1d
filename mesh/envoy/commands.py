"""Headers by which a client would tell Envoy what to do: dropped before anything reads them.

Envoy drops them by itself of clients that it takes for external. Over TCP it takes loopback and
private addresses for internal, whatever `internal_address_config` says (measured with Envoy 1.40),
and would let their clients set retries of methods that must not be repeated, and timeouts.
"""

from __future__ import annotations

from envoy_data_plane.envoy.config.common.mutation_rules import v3 as rules
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.extensions.http.early_header_mutation.header_mutation import v3 as early

from mesh.envoy.text import Packed

_HEADERS = (
    "x-envoy-decorator-operation",
    "x-envoy-expected-rq-timeout-ms",
    "x-envoy-force-trace",
    "x-envoy-hedge-on-per-try-timeout",
    "x-envoy-internal",
    "x-envoy-max-retries",
    "x-envoy-retriable-header-names",
    "x-envoy-retriable-status-codes",
    "x-envoy-retry-grpc-on",
    "x-envoy-retry-on",
    "x-envoy-upstream-alt-stat-name",
    "x-envoy-upstream-rq-per-try-timeout-ms",
    "x-envoy-upstream-rq-timeout-alt-response",
    "x-envoy-upstream-rq-timeout-ms",
    "x-envoy-upstream-stream-duration-ms",
)
"""All but `x-envoy-attempt-count`, by which a sidecar says that it repeats a call."""


def dropped() -> core.TypedExtensionConfig:
    """The extension of a connection manager."""
    return core.TypedExtensionConfig(
        name="envoy.http.early_header_mutation.header_mutation",
        typed_config=Packed(
            early.HeaderMutation(mutations=[rules.HeaderMutation(remove=name) for name in _HEADERS])
        ),
    )
