"""What all regions hold: below it nobody asks for a frame, or brings what has not seen it.

A delete is stable once every region has it durably, and this region has all that any of them held
until then: whatever comes later was written by one who had seen it (causal stability, as in Baquero
et al., "Making Operation-Based CRDTs Operation-Based", 2014).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce

from mesh.replication.core.clocks import Origin, Vector, above, covers


def least(vector: Mapping[Origin, int], words: Iterable[Mapping[Origin, int]]) -> Vector:
    """The greatest vector that this one and all of the words cover."""
    held = list(words)
    found = {
        origin: min([sequence, *(word.get(origin, 0) for word in held)])
        for origin, sequence in vector.items()
    }
    return {origin: sequence for origin, sequence in found.items() if sequence}


@dataclass
class _Mark:
    """This region at a moment; then what was written anywhere when all others had all of that."""

    vector: Vector
    clocks: Vector
    written: Mapping[Origin, int] | None = None


class Stability:
    """Finds up to which clocks deletes are stable; one moment after the other."""

    def __init__(self) -> None:
        self.clocks: Vector = {}
        """Of each origin, the clock up to which everything is stable."""
        self._mark: _Mark | None = None

    def look(
        self,
        vector: Mapping[Origin, int],
        clocks: Vector,
        words: Mapping[str, Mapping[Origin, int]],
        flushed: Mapping[Origin, int],
    ) -> bool:
        """Takes note of where this region is, and of what each other said that it has on disk.

        `words` has all regions that may still bring changes, evicted ones too; up to `flushed`
        recovery replays nothing. Tells whether more is stable now: at the third look at the
        earliest, each after the writes that were in flight at the one before.
        """
        if self._mark is None:
            self._mark = _Mark(dict(vector), dict(clocks))
            return False
        mark = self._mark
        if mark.written is None:
            if all(covers(word, mark.vector) for word in words.values()):
                # Of whichever origin: who wrote it may have lost it, by a backup or with a disk.
                mark.written = reduce(above, words.values(), vector)
            return False
        if not covers(flushed, mark.written):
            if not covers(reduce(above, words.values(), vector), mark.written):
                self._mark = None  # Some of it went with a disk, and would be waited for for ever.
            return False
        self.clocks, self._mark = mark.clocks, None
        return True
