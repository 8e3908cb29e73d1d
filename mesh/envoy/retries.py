"""When a call is tried again: as the contract says, and where nothing of it was sent yet.

What could not be connected, or was refused as a stream (RFC 9113, 8.7: "was not processed"), never
began. Trying that again repeats nothing, so it is done for each method; whatever else failed is
repeated only for a method that is declared idempotent.
"""

from __future__ import annotations

from datetime import timedelta

from envoy_data_plane.envoy.config.route import v3 as route
from envoy_data_plane.envoy.extensions.retry.priority.previous_priorities import v3 as previous

from mesh.contracts.model import Locality, Method
from mesh.envoy.text import Packed

BEFORE_IT_BEGAN = "connect-failure,refused-stream"
ON_FAILURE = "unavailable,reset,connect-failure,refused-stream"
"""Of the gRPC statuses UNAVAILABLE alone: NOT_YET_HERE (ABORTED), a rate limit or a full disk
(RESOURCE_EXHAUSTED) and a method's own errors are answers."""

_FIRST, _LAST = timedelta(milliseconds=20), timedelta(milliseconds=200)
_WAIT = timedelta(milliseconds=500)
_WAITS = 20
"""About five seconds with these waits, which begin at 20 ms and double: as long as a process or a
sidecar takes to be started again."""


def of(method: Method) -> route.RetryPolicy | None:
    """What a caller's sidecar, or an edge, does about a call that failed."""
    if method.retry is None:
        return _before_it_began(method)
    return route.RetryPolicy(
        retry_on=ON_FAILURE,
        num_retries=method.retry.attempts - 1,
        per_try_timeout=timedelta(seconds=method.retry.per_try),
        retry_priority=_elsewhere(method),
        retry_back_off=_back_off(_LAST),
    )


def to_app(method: Method) -> route.RetryPolicy | None:
    """What a sidecar does while its own application is being started again.

    A call that its caller may repeat in another region is better off there. Others wait, within
    their deadline: this is the only place where they may still be taken.
    """
    if method.client_streaming or (method.retry and method.locality is Locality.NEAREST):
        return None
    return _waiting()


def _before_it_began(method: Method) -> route.RetryPolicy | None:
    if method.client_streaming:
        return None  # it would be buffered; who holds a stream opens it again
    if method.locality is not Locality.NEAREST:
        return _waiting()
    return route.RetryPolicy(
        retry_on=BEFORE_IT_BEGAN,
        num_retries=2,
        retry_priority=_elsewhere(method),
        retry_back_off=_back_off(_LAST),
    )


def _waiting() -> route.RetryPolicy:
    return route.RetryPolicy(
        retry_on=BEFORE_IT_BEGAN, num_retries=_WAITS, retry_back_off=_back_off(_WAIT)
    )


def _elsewhere(method: Method) -> route.RetryPolicyRetryPriority | None:
    """The next attempt goes to the next region: the one before was just seen to fail."""
    if method.locality is not Locality.NEAREST:
        return None
    return route.RetryPolicyRetryPriority(
        name="envoy.retry_priorities.previous_priorities",
        typed_config=Packed(previous.PreviousPrioritiesConfig(update_frequency=1)),
    )


def _back_off(longest: timedelta) -> route.RetryPolicyRetryBackOff:
    return route.RetryPolicyRetryBackOff(base_interval=_FIRST, max_interval=longest)
