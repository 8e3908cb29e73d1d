"""The life that a region lives: under which origin it writes, and who vouched for that."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from enum import Enum

from mesh.replication.core.clocks import Origin

SALT_BITS = 16
"""Of an incarnation, how many bits at its end are chosen by chance; before them its first time."""


class LifeStart(Enum):
    """How the present life began; the values are those of isthmus.replication.v1.LifeStart."""

    EMPTY_STORE = 1
    CONTINUED = 2
    UNCONFIRMED = 3
    RESTORED_BACKUP = 4
    DAMAGED_JOURNAL = 5


class Life:
    """The present life of a region.

    `lives` are those that the store held, and how much of each; `now_ms` begins the first one.
    `remembered` tells of a peer whether the group's members count it. `salt` is chosen by chance.

    A life is continued once all peers have vouched for its tail: none holds, or will still take
    from an earlier life's stream, what is not here.
    """

    def __init__(
        self,
        region: str,
        peers: Iterable[str],
        lives: Mapping[Origin, int],
        remembered: Callable[[str], bool],
        now_ms: int,
        salt: int,
    ) -> None:
        self.region = region
        self.recovered = lives
        self.start = LifeStart.CONTINUED if lives else LifeStart.EMPTY_STORE
        self._salt = salt
        self.origin = max(lives, default=Origin(region, self._incarnation(now_ms)))
        self._unconfirmed = set(filter(remembered, peers)) if lives else set()
        self._taken: dict[str, Mapping[Origin, int] | None] = dict.fromkeys(peers)

    def _incarnation(self, now_ms: int) -> int:
        return now_ms << SALT_BITS | self._salt

    @property
    def confirmed(self) -> bool:
        """Whether a write would go under the present origin."""
        return not self._unconfirmed

    @property
    def peers(self) -> Iterable[str]:
        """The group's other regions."""
        return self._taken

    def confirm(self, peer: str, taken: Mapping[Origin, int]) -> None:
        """A peer said in this life what it has taken, stored or not."""
        self._unconfirmed.discard(peer)
        self._taken[peer] = taken

    def count(self, remembered: Callable[[str], bool]) -> None:
        """Members were decided on: who is none of them has nothing to vouch for."""
        self._unconfirmed = set(filter(remembered, self._unconfirmed))

    def renew(self, now_ms: int, start: LifeStart) -> None:
        """Takes a new incarnation."""
        self.start = start
        after = (self.origin.incarnation >> SALT_BITS) + 1
        self.origin = Origin(self.region, self._incarnation(max(now_ms, after)))
        self._unconfirmed.clear()
        self._taken = dict.fromkeys(self._taken)

    def former(
        self, vector: Mapping[Origin, int], remembered: Callable[[str], bool]
    ) -> list[Origin]:
        """The former lives of the region of which a vector has all, whoever may hold it.

        Each peer said in this life that it has no more of any of them: what they held may be taken
        over. Evicted ones too: what they alone know of may have been spent. And a life of which
        something is missing here may have taken over what those before it left.
        """
        if not all(self.whole(peer, vector) for peer in self._taken if remembered(peer)):
            return []
        return sorted(life for life in vector if life.region == self.region and life != self.origin)

    def whole(self, peer: str, vector: Mapping[Origin, int]) -> bool:
        """Whether a peer said in this life that it knows no more of any life than a vector has."""
        taken = self._taken[peer]
        return taken is not None and all(
            sequence <= vector.get(life, 0)
            for life, sequence in taken.items()
            if life.region == self.region
        )
