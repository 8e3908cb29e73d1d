"""Whether the wall clock here agrees with those of the peers.

A clock that is ahead would win every later write of the others, for as long as it is ahead: such
writes are refused before they are acknowledged. Who of two is wrong cannot be told, so the one who
is ahead stops; of more, the majority of those who were heard lately is believed.
"""

from __future__ import annotations

from mesh.replication.core.clocks import MAX_AHEAD_MS
from mesh.replication.core.errors import ClockAhead

LATELY_MS = 60_000
"""For how long a peer's clock counts after it was heard: a machine that slept knows no better."""


class Drift:
    """The peers' wall clocks, each as it was heard last, at a monotonic time. In milliseconds."""

    def __init__(self) -> None:
        self._heard: dict[str, tuple[int, int]] = {}

    def heard(self, peer: str, wall_ms: int, monotonic_ms: int) -> None:
        """A peer said what its clock shows. One that does not say it is not asked."""
        if wall_ms:
            self._heard[peer] = wall_ms, monotonic_ms

    def ahead_ms(self, now_ms: int, monotonic_ms: int) -> dict[str, int]:
        """By peer heard lately, how far the clock here is ahead of its; negative if behind."""
        return {
            peer: now_ms - (wall_ms + monotonic_ms - at)
            for peer, (wall_ms, at) in self._heard.items()
            if 0 <= monotonic_ms - at <= LATELY_MS
        }

    def check(self, region: str, now_ms: int, written_ms: int, monotonic_ms: int) -> None:
        """Raises `ClockAhead` if a write's stamp would be from the future.

        `written_ms` is the clock of the newest change here, which the next one follows: it may be
        ahead of this clock by as much as changes of others are allowed to be.
        """
        if not self._heard:
            return
        ahead = self.ahead_ms(max(now_ms, written_ms - MAX_AHEAD_MS), monotonic_ms)
        beyond = {peer: most for peer, most in ahead.items() if most > MAX_AHEAD_MS}
        if 2 * len(beyond) <= len(ahead):
            return
        listed = ", ".join(f"{most / 1000:.0f} s of {peer}" for peer, most in beyond.items())
        cause = (
            f"set the clock of {region}, and try again"
            if now_ms >= written_ms - MAX_AHEAD_MS
            else f"{region} wrote under a clock that was wrong, which others take only when its "
            "time has come: until then write in another region"
        )
        raise ClockAhead(f"{region} is ahead, by {listed}: {cause}")
