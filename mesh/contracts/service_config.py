"""The gRPC service config of a contract: what a client without a sidecar needs to call as one with.

Clients of every language read the same JSON (gRPC proposals A2 and A6; the fields are those of
`grpc.service_config.ServiceConfig`). A method gets its deadline and, if it may be repeated at all,
its attempts. A service config has no limit for one attempt: the deadline alone bounds them.

Clients on gRPC's C core (Python, C++, Ruby, PHP) take one to two seconds off a service config's
timeout (grpc/grpc#34547): they are given none, and set a deadline with each call.
"""

from __future__ import annotations

from typing import Any

from mesh.contracts.model import Contract, Method

MOST_ATTEMPTS = 5
"""gRPC clients make no more, whatever a service config says (A6)."""

_FIRST_BACKOFF, _MOST_BACKOFF = "0.02s", "0.2s"
_THROTTLING = {"maxTokens": 100, "tokenRatio": 0.1}
"""Retries stop while more than about a tenth of the calls fail: a budget for each server."""


def service_config(
    contract: Contract, caller: str | None = None, *, deadlines: bool = True
) -> dict[str, Any]:
    """The service config for all methods, or those that a workload may call, as JSON's objects.

    Without `deadlines` for clients that would not keep to them.
    """
    methods = sorted(
        (m for m in contract.methods() if caller is None or _may_call(m, caller)),
        key=lambda method: method.path,
    )
    found = [_method_config(method, deadlines) for method in methods]
    return {
        "methodConfig": [config for config in found if len(config) > 1],
        "retryThrottling": _THROTTLING,
    }


def _may_call(method: Method, caller: str) -> bool:
    return caller in method.callers.workloads or method.callers.any_workload


def _method_config(method: Method, deadlines: bool) -> dict[str, Any]:
    config: dict[str, Any] = {"name": [{"service": method.service, "method": method.name}]}
    if deadlines and method.timeout is not None:
        config["timeout"] = _duration(method.timeout)
    if method.retry is not None:
        config["retryPolicy"] = {
            "maxAttempts": min(method.retry.attempts, MOST_ATTEMPTS),
            "initialBackoff": _FIRST_BACKOFF,
            "maxBackoff": _MOST_BACKOFF,
            "backoffMultiplier": 2,
            "retryableStatusCodes": ["UNAVAILABLE"],
        }
    return config


def _duration(seconds: float) -> str:
    """As JSON writes a google.protobuf.Duration."""
    return f"{seconds:.9f}".rstrip("0").rstrip(".") + "s"
