"""The pure compiler of sidecar configurations: Contract × Topology × Place -> Envoy resources."""

from mesh.envoy.binary import envoy_binary, validate
from mesh.envoy.bootstrap import (
    Configuration,
    ControlPlane,
    compile_discovering,
    compile_for,
)
from mesh.envoy.discovery import STATE, Discovered, discovered
from mesh.envoy.errors import EnvoyConfigError
from mesh.envoy.parts import folder
from mesh.envoy.render import render

__all__ = [
    "STATE",
    "Configuration",
    "ControlPlane",
    "Discovered",
    "EnvoyConfigError",
    "compile_discovering",
    "compile_for",
    "discovered",
    "envoy_binary",
    "folder",
    "render",
    "validate",
]
