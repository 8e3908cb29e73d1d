"""Contract × Topology -> a snapshot for each sidecar of the regions that a control plane serves."""

from __future__ import annotations

from collections.abc import Iterable

from mesh.contracts.model import Contract
from mesh.envoy import Discovered, discovered
from mesh.envoy.encode import encode
from mesh.place import EDGE
from mesh.topology import Topology
from mesh.xds.fleet import Instance, Revision
from mesh.xds.resources import Library, Resource, Snapshot


class Compiler:
    """Compiles revisions; what two of them have in common is the same object in both."""

    def __init__(self) -> None:
        self._library = Library()

    def revision(
        self,
        name: str,
        contract: Contract,
        topology: Topology,
        regions: Iterable[str] | None = None,
    ) -> Revision:
        """What each workload's sidecar and each edge shall have, in these regions or in all.

        Raises `EnvoyConfigError`.
        """
        return Revision(
            name,
            {
                Instance(region, workload): self.snapshot(contract, topology, region, workload)
                for region in (topology.region_names if regions is None else regions)
                for workload in (*topology.workloads, EDGE)
            },
        )

    def snapshot(
        self, contract: Contract, topology: Topology, region: str, workload: str
    ) -> Snapshot:
        """What one sidecar shall have. Raises `EnvoyConfigError`."""
        found = discovered(contract, topology, region, workload)
        return self._library.snapshot(self.encoded(each) for each in found)

    def encoded(self, each: Discovered) -> Resource:
        """A resource as it is served."""
        return self._library.resource(each.type_url, each.name, encode(each.message), each.needs)
