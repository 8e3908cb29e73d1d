"""A region's control plane: the workload that gives the region's sidecars what they run.

Names are imported when they are first used: the process serves what was compiled before it, and
needs none of the compiler.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mesh.control.install import Installation, compile_mesh
    from mesh.control.source import Source
    from mesh.control.store import Store, StoreDamaged

__all__ = ["Installation", "Source", "Store", "StoreDamaged", "compile_mesh"]

_HOME = {
    "Installation": "install",
    "compile_mesh": "install",
    "Source": "source",
    "Store": "store",
    "StoreDamaged": "store",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
