"""The network between the regions' processes: the local mesh's WAN, whose links can fail.

Each region has one listener for each peer, named after it, so that the peer is known by where it
calls.
"""

from __future__ import annotations

from pathlib import Path

from mesh.local.ports import claim_blocks
from mesh.local.wan import Wan
from mesh.local.wan_link import HEALTHY, Fault
from mesh.topology import Address, Region, Topology
from tests.faults.settings import TRUST_DOMAIN

__all__ = ["HEALTHY", "Fault", "Network"]


class Network:
    """Links between regions, each of which can be stalled, slowed and cut in either direction."""

    name = "the local mesh's WAN (TCP proxies, no root)"

    def __init__(self, regions: list[str]) -> None:
        self.regions = regions
        self._claim = claim_blocks(len(regions))
        self._topology = Topology(
            path=Path(),
            trust_domain=TRUST_DOMAIN,
            regions=tuple(
                Region(name, "127.0.0.1", base)
                for name, base in zip(regions, self._claim.bases, strict=True)
            ),
            workloads=tuple(regions),
            devices=(),
            media_root=Path(),
            origin=Address("127.0.0.1", 0),
            otlp=None,
        )
        self._wan = Wan(self._topology)

    async def start(self) -> None:
        """Carries from now on."""
        await self._wan.start()

    async def close(self) -> None:
        """Ends all connections."""
        await self._wan.close()
        self._claim.release()

    def command(self, region: str) -> list[str]:
        """What comes before a command that is to run in a region: nothing."""
        return []

    def listens(self, region: str) -> dict[str, str]:
        """Where a region listens for each peer."""
        return {peer: str(self._topology.inbound(region, peer)) for peer in self._peers(region)}

    def dials(self, region: str) -> dict[str, str]:
        """Where a region dials each peer."""
        return {
            peer: str(self._topology.route(region, peer, region)) for peer in self._peers(region)
        }

    def set(self, source: str, target: str, fault: Fault) -> None:
        """Sets what is wrong with what flows from one region to another; `HEALTHY` heals it."""
        self._wan.set_fault(source, target, fault)

    def heal(self) -> None:
        """Makes every link healthy."""
        for link in self._wan.links.values():
            link.set_fault(HEALTHY)

    def _peers(self, region: str) -> list[str]:
        return [name for name in self.regions if name != region]
