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
    """What a commit touched; `frames` are (origin, first, last)."""

    frames: tuple[tuple[Origin, int, int], ...]
    entities: frozenset[EntityKey]


class Recent:
    """The last commits. `floor` is the vector of all that is not among them."""

    def __init__(self, floor: Mapping[Origin, int]) -> None:
        self._floor: Vector = dict(floor)
        self._commits: deque[Touched] = deque()
        self._size = 0

    def note(self, frames: Iterable[Frame], touched: Collection[EntityKey]) -> None:
        """A commit became visible."""
        places = tuple((frame.origin, frame.first, frame.last) for frame in frames)
        self._commits.append(Touched(places, frozenset(touched)))
        self._size += len(touched)
        while self._size > MOST_ENTITIES or len(self._commits) > MOST_COMMITS:
            oldest = self._commits.popleft()
            self._size -= len(oldest.entities)
            for origin, _, last in oldest.frames:
                self._floor[origin] = max(last, self._floor.get(origin, 0))

    def beyond(self, vector: Mapping[Origin, int]) -> list[Touched] | None:
        """The commits that hold anything beyond a vector; None if that is not known any more."""
        if not covers(vector, self._floor):
            return None
        return [
            commit
            for commit in self._commits
            if any(last > vector.get(origin, 0) for origin, _, last in commit.frames)
        ]
