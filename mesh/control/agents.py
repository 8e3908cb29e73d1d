"""Whose agent it is that calls the control plane."""

from __future__ import annotations

from typing import Any

import grpc

from mesh.place import VERSION_HEADER, instance_name
from mesh.runtime import PermissionDenied, caller
from mesh.xds.fleet import Fleet, Instance

Context = grpc.aio.ServicerContext[Any, Any]


def reporting(context: Context, region: str, fleet: Fleet) -> Instance:
    """The instance beside which the caller runs.

    Raises `PermissionDenied` if it is another region's, or a version that nobody has declared.
    """
    who = caller()
    if who.region != region:
        raise PermissionDenied(
            f"{who} reports to its own region's control plane", reason="OTHER_REGION"
        )
    version = str(dict(context.invocation_metadata() or ()).get(VERSION_HEADER, ""))
    instance = Instance(region, instance_name(who.name, version))
    if version and not fleet.has(instance):
        raise PermissionDenied(
            f"{instance} is none of `traffic.versions` in what is deployed", reason="NO_VERSION"
        )
    return instance
