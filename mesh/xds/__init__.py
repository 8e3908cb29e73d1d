"""The control plane: sidecars and gRPC clients get their configuration from here, as xDS.

`Compiler` is imported when it is first used: who serves what was compiled before needs none of
Envoy's classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mesh.xds.fleet import Fleet, Instance, NoSuchInstance, Outcome, Revision, SidecarView
from mesh.xds.resources import Library, Resource, Snapshot
from mesh.xds.server import (
    SERVER_OPTIONS,
    Admission,
    AdsServer,
    NotAdmitted,
    Peer,
    Traffic,
    by_certificate,
)
from mesh.xds.stream import Rejection, TypeView

if TYPE_CHECKING:
    from mesh.xds.compiler import Compiler

__all__ = [
    "SERVER_OPTIONS",
    "Admission",
    "AdsServer",
    "Compiler",
    "Fleet",
    "Instance",
    "Library",
    "NoSuchInstance",
    "NotAdmitted",
    "Outcome",
    "Peer",
    "Rejection",
    "Resource",
    "Revision",
    "SidecarView",
    "Snapshot",
    "Traffic",
    "TypeView",
    "by_certificate",
]


def __getattr__(name: str) -> Any:
    if name != "Compiler":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mesh.xds.compiler import Compiler

    return Compiler
