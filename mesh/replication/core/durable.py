"""Where changes are on disk, by the word of the regions themselves.

What a relay says of another region does not count: it may have that from before a disk was lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mesh.replication.core.clocks import Origin, Vector, covers


class Durable:
    """Which regions hold which changes durably."""

    def __init__(self, region: str, peers: Iterable[str]) -> None:
        self._region = region
        self._acknowledged: dict[str, Vector] = {peer: {} for peer in peers}

    @property
    def regions(self) -> int:
        """How many regions the group has, this one included."""
        return 1 + len(self._acknowledged)

    def acknowledged(self, peer: str, vector: Mapping[Origin, int]) -> None:
        """A peer said on its own stream what it has on disk.

        The latest word counts, also if it is less: the peer then lost its disk.
        """
        if peer in self._acknowledged:
            self._acknowledged[peer] = dict(vector)

    def holders(self, positions: Mapping[Origin, int]) -> list[str]:
        """The regions that hold all of these positions, this one included, which wrote them."""
        peers = [peer for peer, vector in self._acknowledged.items() if covers(vector, positions)]
        return sorted([self._region, *peers])
