"""What `isthmus up` does before a region's control plane runs: it installs a first revision.

A mesh that comes up with another contract or topology than it last came up with runs those, at
once: nobody calls anybody yet. With the same ones it goes on with what was deployed upon them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mesh.contracts import Contract
from mesh.control.compiled import pack
from mesh.control.source import Source
from mesh.control.store import Standing, Store, StoreDamaged
from mesh.envoy.parts import COMPILING
from mesh.topology import Topology
from mesh.xds.compiler import Compiler
from mesh.xds.fleet import Revision


@dataclass(frozen=True)
class Installation:
    """A contract and a topology, compiled for all regions."""

    source: Source
    revision: Revision

    def into(self, data: Path, region: str) -> None:
        """Installs it in a region's control plane, whose process does not run."""
        store = Store(data)
        installed = self.revision.name
        try:
            before = store.standing()
        except StoreDamaged:
            before = None  # what was confirmed there is lost; what is installed now is not
        good = before.good if before is not None and before.installed == installed else installed
        store.save(self.source, pack(self.revision, region))
        if good != installed and good not in store.names():
            good = installed
        store.stand(Standing(installed, good))


def compile_mesh(image: bytes, contract: Contract, topology: Topology) -> Installation:
    """Compiles what the sidecars of all regions shall have. Raises `EnvoyConfigError`.

    `image` is the descriptor set that `contract` was read from.
    """
    source = Source.of(image, topology)
    with COMPILING:
        return Installation(source, Compiler().revision(source.name, contract, topology))
