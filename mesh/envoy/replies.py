"""What Envoy answers by itself, where its own choice would say something else than happened."""

from __future__ import annotations

from envoy_data_plane.envoy.config.accesslog import v3 as accesslog
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm
from google.rpc import code_pb2

_TIMED_OUT = "UT"
"""Envoy's response flag: the last attempt took longer than `per_try`. Routes have no `timeout`, and
what took longer than `max_stream_duration` has another flag."""


def truthful() -> hcm.LocalReplyConfig:
    """When no attempt was answered in time, DEADLINE_EXCEEDED.

    Envoy says UNAVAILABLE, which reads as if nothing was done, and which whoever called the caller
    would have repeated: attempts would multiply along a chain of calls.
    """
    late = core.HeaderValue(key="grpc-status", value=str(code_pb2.DEADLINE_EXCEEDED))
    return hcm.LocalReplyConfig(
        mappers=[
            hcm.ResponseMapper(
                filter=accesslog.AccessLogFilter(
                    response_flag_filter=accesslog.ResponseFlagFilter(flags=[_TIMED_OUT])
                ),
                headers_to_add=[
                    core.HeaderValueOption(
                        header=late,
                        append_action=(
                            core.HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD
                        ),
                    )
                ],
            )
        ]
    )
