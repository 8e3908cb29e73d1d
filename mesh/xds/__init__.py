"""The control plane: sidecars and gRPC clients get their configuration from here, as xDS."""

from mesh.xds.compiler import Compiler
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
