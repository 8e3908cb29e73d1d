"""What a mesh of one region cannot give: failover."""

from __future__ import annotations

import sys

from mesh.contracts.model import Contract, Locality
from mesh.topology import Topology


def note_missing_failover(contract: Contract, topology: Topology) -> None:
    """Says on stderr that what runs fails over to other regions, if there is no other."""
    if len(topology.region_names) > 1:
        return
    methods = [
        method
        for workload in topology.workloads
        for service in contract.served_by(workload)
        for method in service.methods
        if method.locality is Locality.NEAREST
    ]
    if methods:
        print(
            f"note: {topology.path.name} has one region: {len(methods)} methods are "
            "LOCALITY_NEAREST, and have no other region to fail over to",
            file=sys.stderr,
        )
