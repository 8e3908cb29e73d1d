"""Contract × Topology -> a snapshot for each sidecar of the regions that a control plane serves."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable

from mesh.contracts.model import Contract
from mesh.envoy.discovery import Discovered, split, standing
from mesh.envoy.encode import encode
from mesh.envoy.parts import Part, parts
from mesh.envoy.target import Target
from mesh.topology import Topology
from mesh.xds.fleet import Instance, Revision
from mesh.xds.resources import Library, Resource, Snapshot

_Made = tuple[tuple[Resource, ...], frozenset[Target]]


class Compiler:
    """Compiles revisions; what two of them have in common is the same object in both.

    Of one contract after another only the parts that differ are made anew.
    """

    def __init__(self) -> None:
        self._library = Library()
        self._topology: Topology | None = None
        self._made: dict[Hashable, _Made] = {}
        self._made_before: dict[Hashable, _Made] = {}

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
        # What neither this revision nor the last one has a use for is forgotten.
        self._made_before, self._made = self._made, {}
        return Revision(
            name,
            {
                Instance(region, name): self.snapshot(contract, topology, region, name)
                for region in (topology.region_names if regions is None else regions)
                for name in topology.instances(region)
            },
        )

    def snapshot(
        self, contract: Contract, topology: Topology, region: str, instance: str
    ) -> Snapshot:
        """What one sidecar shall have. Raises `EnvoyConfigError`."""
        if topology != self._topology:
            self._topology = topology
            self._made, self._made_before = {}, {}
        found = parts(contract, topology, standing(topology, region, instance), self._once)
        return self._library.snapshot(each for resources in found for each in resources)

    def encoded(self, each: Discovered) -> Resource:
        """A resource as it is served."""
        return self._library.resource(each.type_url, each.name, encode(each.message), each.needs)

    def _once(self, key: Hashable, make: Callable[[], Part]) -> _Made:
        made = self._made.get(key) or self._made_before.get(key)
        if made is None:
            part = make()
            made = tuple(self.encoded(each) for each in split(part.message)), part.targets
        self._made[key] = made
        return made
