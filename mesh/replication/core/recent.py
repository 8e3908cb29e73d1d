"""Which entities the last commits touched: what a region has beyond another's vector.

One set for each commit, whatever is in it; the oldest are dropped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from mesh.replication.core.clocks import Origin, Vector, covers
from mesh.replication.core.entities import EntityKey
from mesh.replication.core.frames import Frame

MOST_ENTITIES = 200_000
MOST_COMMITS = 4000


class Touched(NamedTuple):
    """What a commit touched, and up to where it took each origin."""

    positions: Vector
    entities: frozenset[EntityKey]


class Recent:
    """The last commits. `floor` is the vector of all that is not among them."""

    def __init__(self, floor: Mapping[Origin, int]) -> None:
        self._floor: Vector = dict(floor)
        self._commits: deque[Touched] = deque()
        # An origin's positions rise from commit to commit: what is beyond one lies at the end.
        self._by_origin: dict[Origin, deque[tuple[int, frozenset[EntityKey]]]] = {}
        self._size = 0

    def note(self, frames: Iterable[Frame], touched: Collection[EntityKey]) -> None:
        """A commit became visible."""
        commit = Touched({frame.origin: frame.last for frame in frames}, frozenset(touched))
        self._commits.append(commit)
        self._size += len(commit.entities)
        for origin, last in commit.positions.items():
            self._by_origin.setdefault(origin, deque()).append((last, commit.entities))
        while self._size > MOST_ENTITIES or len(self._commits) > MOST_COMMITS:
            oldest = self._commits.popleft()
            self._size -= len(oldest.entities)
            for origin in oldest.positions:
                self._floor[origin], _ = self._by_origin[origin].popleft()

    def beyond(self, vector: Mapping[Origin, int]) -> set[EntityKey] | None:
        """The entities of all commits that hold anything beyond a vector.

        None if that is not known any more. Costs as much as there is beyond the vector.
        """
        if not covers(vector, self._floor):
            return None
        found: set[EntityKey] = set()
        for origin, commits in self._by_origin.items():
            taken = vector.get(origin, 0)
            for last, entities in reversed(commits):
                if last <= taken:
                    break
                found |= entities
        return found
