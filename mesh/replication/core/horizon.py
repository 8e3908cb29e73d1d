"""What all regions hold: below it nobody asks for a frame, or brings what it has not seen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mesh.replication.core.clocks import Origin, Vector


def least(vector: Mapping[Origin, int], words: Iterable[Mapping[Origin, int]]) -> Vector:
    """The greatest vector that this one and all of the words cover."""
    held = list(words)
    found = {
        origin: min([sequence, *(word.get(origin, 0) for word in held)])
        for origin, sequence in vector.items()
    }
    return {origin: sequence for origin, sequence in found.items() if sequence}
