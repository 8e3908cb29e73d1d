"""Hosts services: the part of the platform that runs in a workload's own process.

Names are imported when they are first used: a client of the mesh needs none of a host's parts, and
they cost a process a third of a second and 30 MB.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mesh.runtime.client import Edges, NoEdge, NoIdentity
    from mesh.runtime.context import call_context, caller, end_principal, own_context
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
    from mesh.runtime.session_tokens import SessionTokens

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
    "SessionTokens",
    "Unauthenticated",
    "Unavailable",
    "call_context",
    "caller",
    "end_principal",
    "own_context",
    "run",
]

_HOMES = {
    "client": ("Edges", "NoEdge", "NoIdentity"),
    "context": ("call_context", "caller", "end_principal", "own_context"),
    "host": ("Host", "run"),
    "principal": ("Principal",),
    "session_tokens": ("SessionTokens",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME.get(name, 'errors')}"), name)
