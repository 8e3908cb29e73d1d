"""Holds new calls in a sidecar for a moment, so that its application can stop between two of them.

A server that is told to stop cancels what arrives before its GOAWAY does. So calls wait while it is
told; then there is no connection any more, and they wait for the next one (`mesh.envoy.retries`).
"""

from __future__ import annotations

from datetime import timedelta

from envoy_data_plane.envoy.extensions.filters.common.fault import v3 as common
from envoy_data_plane.envoy.extensions.filters.http.fault import v3 as fault
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm
from envoy_data_plane.envoy.type import v3 as types

from mesh.envoy.text import Packed

KEY = "isthmus.hold"
"""Set to 100 in Envoy's runtime to hold all new calls, to 0 to hold none."""

FOR = timedelta(seconds=2)
"""How long each is held: longer than a process takes to hear that it shall stop."""


def calls() -> hcm.HttpFilter:
    """The filter, in front of the router. It does nothing until it is told."""
    config = fault.HttpFault(
        delay=common.FaultDelay(fixed_delay=FOR, percentage=types.FractionalPercent(numerator=0)),
        delay_percent_runtime=KEY,
        disable_downstream_cluster_stats=True,
    )
    return hcm.HttpFilter(name="isthmus.hold", typed_config=Packed(config))
