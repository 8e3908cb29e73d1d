"""The filter by which what is said in calls can be seen, for as long as somebody taps it.

It is in each inbound listener, behind those that decide who may call, and does nothing until it is
asked to over the admin socket (`traces`): a change of a listener would drain its connections.
"""

from __future__ import annotations

from envoy_data_plane.envoy.extensions.common.tap import v3 as common
from envoy_data_plane.envoy.extensions.filters.http.tap import v3 as http_tap
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm

from mesh.envoy.text import Packed
from mesh.envoy.traces import ID


def tap() -> hcm.HttpFilter:
    """The filter."""
    admin = common.AdminConfig(config_id=ID)
    config = http_tap.Tap(common_config=common.CommonExtensionConfig(admin_config=admin))
    return hcm.HttpFilter(name="envoy.filters.http.tap", typed_config=Packed(config))
