"""The pure compiler of sidecar configurations: Contract × Topology × Place -> Envoy resources.

Names are imported when they are first used: who only serves what was compiled needs none of Envoy's
classes, which cost a process a second and 50 MB.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mesh.envoy.binary import envoy_binary, validate
    from mesh.envoy.bootstrap import (
        Configuration,
        ControlPlane,
        compile_discovering,
        compile_for,
    )
    from mesh.envoy.credentials import write_credentials
    from mesh.envoy.discovery import STATE, Discovered, discovered
    from mesh.envoy.errors import EnvoyConfigError
    from mesh.envoy.parts import folder
    from mesh.envoy.telemetry import ACCESS_LOG
    from mesh.envoy.vouching import VOUCH

__all__ = [
    "ACCESS_LOG",
    "STATE",
    "VOUCH",
    "Configuration",
    "ControlPlane",
    "Discovered",
    "EnvoyConfigError",
    "compile_discovering",
    "compile_for",
    "discovered",
    "envoy_binary",
    "folder",
    "validate",
    "write_credentials",
]

_HOMES = {
    "binary": ("envoy_binary", "validate"),
    "bootstrap": ("Configuration", "ControlPlane", "compile_discovering", "compile_for"),
    "credentials": ("write_credentials",),
    "discovery": ("STATE", "Discovered", "discovered"),
    "errors": ("EnvoyConfigError",),
    "parts": ("folder",),
    "telemetry": ("ACCESS_LOG",),
    "vouching": ("VOUCH",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
