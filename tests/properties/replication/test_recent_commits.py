"""What a region has beyond a vector, against its definition."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mesh.replication.core import recent
from mesh.replication.core.clocks import Origin, Vector
from mesh.replication.core.recent import Recent

ORIGINS = [Origin("eu", 1), Origin("us", 1), Origin("us", 2)]

advances = st.dictionaries(st.sampled_from(ORIGINS), st.integers(1, 4), min_size=1)
touched = st.frozensets(st.integers(0, 9).map(lambda n: ("Thing", str(n))), max_size=5)
commits = st.lists(st.tuples(advances, touched), max_size=30)
vectors = st.dictionaries(st.sampled_from(ORIGINS), st.integers(0, 60))


@given(commits, vectors, st.integers(1, 20))
def test_beyond_a_vector_is_what_its_commits_lack(
    commits: list[tuple[dict[Origin, int], frozenset[Any]]], vector: Vector, most: int
) -> None:
    kept = Recent({})
    here: Vector = {}
    noted: list[tuple[Vector, frozenset[Any]]] = []
    before = recent.MOST_COMMITS
    recent.MOST_COMMITS = most
    try:
        for advance, entities in commits:
            here = here | {o: here.get(o, 0) + n for o, n in advance.items()}
            positions = {o: here[o] for o in advance}
            noted.append((positions, entities))
            frames: Any = [SimpleNamespace(origin=o, last=n) for o, n in positions.items()]
            kept.note(frames, entities)
    finally:
        recent.MOST_COMMITS = before
    forgotten = noted[:-most]
    found = kept.beyond(vector)
    if any(n > vector.get(o, 0) for positions, _ in forgotten for o, n in positions.items()):
        assert found is None
    else:
        lacking = [
            entities
            for positions, entities in noted
            if any(n > vector.get(o, 0) for o, n in positions.items())
        ]
        assert found == frozenset().union(*lacking)
