"""The pure compiler of sidecar configurations: Contract × Topology × Place -> Envoy resources."""

from mesh.envoy.binary import envoy_binary, validate
from mesh.envoy.bootstrap import (
    Configuration,
    compile_edge,
    compile_for,
    compile_sidecar,
    folder,
)
from mesh.envoy.errors import EnvoyConfigError
from mesh.envoy.render import render

__all__ = [
    "Configuration",
    "EnvoyConfigError",
    "compile_edge",
    "compile_for",
    "compile_sidecar",
    "envoy_binary",
    "folder",
    "render",
    "validate",
]
