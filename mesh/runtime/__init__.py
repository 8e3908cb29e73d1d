"""Hosts services: the part of the platform that runs in a workload's own process."""

from mesh.runtime.context import call_context, caller, own_context
from mesh.runtime.errors import (
    Aborted,
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    RpcError,
    Unauthenticated,
    Unavailable,
)
from mesh.runtime.host import Host, run
from mesh.runtime.principal import Principal

__all__ = [
    "Aborted",
    "AlreadyExists",
    "FailedPrecondition",
    "Host",
    "InvalidArgument",
    "NotFound",
    "PermissionDenied",
    "Principal",
    "ResourceExhausted",
    "RpcError",
    "Unauthenticated",
    "Unavailable",
    "call_context",
    "caller",
    "own_context",
    "run",
]
