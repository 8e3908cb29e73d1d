"""Hosts services: the part of the platform that runs in a workload's own process."""

from mesh.runtime.client import Edges, NoEdge, NoIdentity
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
    "Edges",
    "FailedPrecondition",
    "Host",
    "InvalidArgument",
    "NoEdge",
    "NoIdentity",
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
