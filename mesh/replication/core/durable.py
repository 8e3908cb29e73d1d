"""Where changes are on disk, by the word of the regions themselves.

What a relay says of another region does not count: it may have that from before a disk was lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mesh.replication.core.clocks import Origin, Vector, covers
from mesh.replication.core.decisions import Word
from mesh.replication.core.members import Members


class Durable:
    """Which regions hold which changes durably. Only members of the group count.

    `vector` is how far this region is with the table of `members`.
    """

    def __init__(
        self, region: str, peers: Iterable[str], members: Members, vector: Mapping[Origin, int]
    ) -> None:
        self._region = region
        self._peers = tuple(peers)
        self._acknowledged: dict[str, Vector] = {}
        self._first: dict[str, Vector] = {}
        self._since = {peer: dict(vector) for peer in self._peers if peer in members.decided}
        self._members = members

    @property
    def regions(self) -> int:
        """How many members the group has."""
        return sum(map(self._members.counts, (self._region, *self._peers)))

    def decided(self, members: Members, vector: Mapping[Origin, int]) -> None:
        """The table of members is another now.

        Of a region that was decided upon, only what it says from now on counts.
        """
        for peer in self._peers:
            if members.of(peer) != self._members.of(peer):
                self._since[peer] = dict(vector)
                self._acknowledged.pop(peer, None)
                self._first.pop(peer, None)
        self._members = members

    def of(self, peer: str) -> Vector | None:
        """What a peer has said last that it has on disk; None if nothing."""
        return self._acknowledged.get(peer)

    def acknowledged(self, peer: str, vector: Mapping[Origin, int]) -> None:
        """A peer said on its own stream what it has on disk.

        The latest word counts, also if it is less: the peer then lost its disk.
        """
        if peer in self._peers:
            latest = self._acknowledged[peer] = dict(vector)
            first = self._first.get(peer)
            if first is None or not covers(latest, first):
                # What was under way when it was decided upon may be from before it wrote.
                self._first.pop(peer, None)
                if covers(latest, self._since.get(peer, {})):
                    self._first[peer] = latest

    def holders(self, positions: Mapping[Origin, int]) -> list[str]:
        """The members that hold all of these positions; this one does, which wrote them."""
        peers = [
            peer
            for peer, vector in self._acknowledged.items()
            if self._members.counts(peer) and covers(vector, positions)
        ]
        own = [self._region] if self._members.counts(self._region) else []
        return sorted([*own, *peers])

    def words(self) -> dict[str, Word]:
        """What the peers said since they were decided upon."""
        return {
            peer: Word(latest, self._first.get(peer), self._since.get(peer, {}))
            for peer, latest in self._acknowledged.items()
        }
