"""How far a region is behind: in changes, and in the age of the oldest change that it lacks.

Age is counted from when a change was made, by its writer's clock, not from when one heard of it.
Peers say in their heartbeats when the first and the last change were made that they hold beyond
what is acknowledged; between two such marks the later one counts, so that an age is too low rather
than made up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from isthmus.replication.v1 import frame_pb2

from mesh.replication.core.clocks import Origin, Vector, milliseconds
from mesh.replication.core.frames import FrameLog

MOST_MARKS = 64
"""How many marks of an origin are kept: a minute of heartbeats of one peer."""


class Behind(NamedTuple):
    """What is missing of an origin; `age_ms` is that of the oldest change, or less if not `exact`.

    `age_ms` is None while nobody has said when any of it was made.
    """

    changes: int
    age_ms: int | None
    exact: bool


class Lag:
    """When changes were made that exist somewhere and are not applied here."""

    def __init__(self) -> None:
        self._marks: dict[Origin, dict[int, int]] = {}
        self._read: dict[Origin, tuple[int, int | None]] = {}

    def note(self, origin: Origin, sequence: int, clock: int) -> None:
        """There is a change of this place, made at this hybrid logical clock."""
        marks = self._marks.setdefault(origin, {})
        marks.setdefault(sequence, clock)
        if len(marks) > MOST_MARKS:
            # The oldest and the newest matter most.
            del marks[sorted(marks)[MOST_MARKS // 2]]

    def behind(
        self, vector: Mapping[Origin, int], known: Iterable[Mapping[Origin, int]], now_ms: int
    ) -> dict[Origin, Behind]:
        """What `vector` lacks of all that is known, by origin; what lacks nothing is left out."""
        highest: Vector = {}
        for each in known:
            for origin, sequence in each.items():
                if sequence > max(vector.get(origin, 0), highest.get(origin, 0)):
                    highest[origin] = sequence
        return {
            origin: self._behind(origin, vector.get(origin, 0), sequence, now_ms)
            for origin, sequence in highest.items()
        }

    def _behind(self, origin: Origin, applied: int, known: int, now_ms: int) -> Behind:
        places = [place for place in self._marks.get(origin, ()) if applied < place <= known]
        if not places:
            return Behind(known - applied, None, exact=False)
        first = min(places)
        age_ms = max(0, now_ms - milliseconds(self._marks[origin][first]))
        return Behind(known - applied, age_ms, exact=first == applied + 1)

    def applied(self, vector: Mapping[Origin, int]) -> None:
        """Forgets when changes were made that are applied by now."""
        self._marks = {
            origin: kept
            for origin, marks in self._marks.items()
            if (kept := {n: clock for n, clock in marks.items() if n > vector.get(origin, 0)})
        }

    def clock_at(self, log: FrameLog, origin: Origin, sequence: int) -> int | None:
        """The clock of a change that is stored here; None if its frame is not held any more."""
        place, clock = self._read.get(origin, (0, None))
        if place != sequence:
            found = log.after(origin, sequence - 1, 1)
            clock = None
            if found and found[0].first <= sequence:
                body = frame_pb2.FrameBody.FromString(found[0].body)
                clock = body.clocks[sequence - found[0].first]
            self._read[origin] = sequence, clock
        return clock
