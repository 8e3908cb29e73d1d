"""The client's side of LOCALITY_HOME: a call that another region is the home for goes there.

A region that is not the home refuses before it does anything, and names the home. So the call is
safe to repeat, whatever its method does. The home is named in a header, by which the sidecar or
edge chooses the way; methods of another locality are not moved by it.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

HOME_HEADER = "x-isthmus-home"
_STATUS_KEY = "grpc-status-details-bin"


class HomeCalls(grpc.aio.UnaryUnaryClientInterceptor):
    """Repeats a call once, in the region that the answer named as its home."""

    async def intercept_unary_unary(
        self,
        continuation: Callable[..., Any],
        client_call_details: grpc.aio.ClientCallDetails,
        request: Any,
    ) -> Any:
        """The answer of the home, or of the region that was asked if it gave another."""
        details = client_call_details
        started = monotonic()
        call = await continuation(details, request)
        if await call.code() is not grpc.StatusCode.FAILED_PRECONDITION:
            return call
        metadata = grpc.aio.Metadata(*(details.metadata or ()))
        named = any(key == HOME_HEADER for key, _ in metadata)
        home = home_in(await call.trailing_metadata())
        left = None if details.timeout is None else details.timeout - (monotonic() - started)
        if not home or named or (left is not None and left <= 0):
            return call
        metadata.add(HOME_HEADER, home)
        again = grpc.aio.ClientCallDetails(
            details.method, left, metadata, details.credentials, details.wait_for_ready
        )
        return await continuation(again, request)


def home_in(metadata: Any) -> str:
    """The home that a NOT_HOME status names; empty for any other."""
    for key, value in metadata or ():
        if key == _STATUS_KEY:
            for detail in status_pb2.Status.FromString(value).details:
                info = error_details_pb2.ErrorInfo()
                if detail.Unpack(info) and info.reason == "NOT_HOME":
                    return str(info.metadata.get("home", ""))
    return ""
