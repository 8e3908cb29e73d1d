"""What a region says of its lag, against the truth that only the simulation knows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from mesh.replication.core.clocks import Origin, milliseconds
from mesh.replication.core.frames import Frame
from tests.simulation.model import Violation

if TYPE_CHECKING:
    from tests.simulation.region import Region


class Made:
    """When each change was made that any origin has stored, in the order of its numbers."""

    def __init__(self) -> None:
        self._clocks: dict[Origin, list[int]] = {}

    def note(self, frames: Iterable[Frame], region: str) -> None:
        """A region stored these, or found them on its disk; its own are new."""
        for frame in frames:
            clocks = self._clocks.setdefault(frame.origin, [])
            if frame.origin.region == region and frame.first == len(clocks) + 1:
                clocks.extend(frame.columns.clocks)

    def check(self, region: Region) -> None:
        """What a region says is never more than the truth, and the truth where it says so."""
        journal, now_ms = region.journal, region.wall_ms
        known = [journal.taken, *(each.view.vector for each in region.followers.values())]
        for origin, said in journal.lag.behind(journal.vector, known, now_ms).items():
            missing = self._clocks.get(origin, [])[journal.vector.get(origin, 0) :]
            truth = max(0, now_ms - milliseconds(missing[0])) if missing else 0
            wrong = said.exact and said.age_ms != truth
            if said.changes > len(missing) or (said.age_ms or 0) > truth or wrong:
                raise Violation(
                    f"{region.name} says that it lacks {said} of {origin}, and lacks "
                    f"{len(missing)} changes, the oldest {truth} ms old"
                )
