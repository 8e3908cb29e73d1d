"""Who is there: when a group's peers were heard, on which path, and what their clocks show."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from mesh.replication.core.drift import Drift
from mesh.replication.core.reach import Hearing
from mesh.replication.views import Reach


class Presence:
    """The peers of a region, as it hears them.

    `lost_after_ms` is for how long a peer may be silent; `now_ms` the wall clock, `monotonic_ms`
    one that never jumps, both in milliseconds.
    """

    def __init__(
        self,
        region: str,
        peers: Iterable[str],
        lost_after_ms: int,
        now_ms: Callable[[], int],
        monotonic_ms: Callable[[], int],
    ) -> None:
        self.drift = Drift()
        self.linked: set[str] = set()
        """The peers that are heard themselves, when somebody looked last."""
        self._region = region
        self._peers = tuple(peers)
        self._hearing = Hearing(self._peers, lost_after_ms)
        self._last_heard_ms: dict[str, int] = {}
        self._reachable: dict[str, bool] = {}
        self._now_ms = now_ms
        self._monotonic_ms = monotonic_ms

    def heard(self, peer: str) -> None:
        """A peer sent something."""
        self._hearing.heard(peer, self._monotonic_ms())
        self._last_heard_ms[peer] = self._now_ms()

    def heard_of(self, clocks: Mapping[str, int]) -> None:
        """A heartbeat named these clocks of regions."""
        for peer in self._hearing.heard_of(clocks, self._monotonic_ms()):
            self._last_heard_ms[peer] = self._now_ms()

    def showed(self, peer: str, wall_ms: int) -> None:
        """A peer said what its wall clock shows."""
        self.drift.heard(peer, wall_ms, self._monotonic_ms())

    @property
    def clocks(self) -> Mapping[str, int]:
        """The clocks of the peers' newest heartbeats, to pass on."""
        return self._hearing.clocks

    def ahead_ms(self) -> Mapping[str, int]:
        """By peer heard lately, how far the wall clock here is ahead of its."""
        return self.drift.ahead_ms(self._now_ms(), self._monotonic_ms())

    def check_clock(self, now_ms: int, written_ms: int) -> None:
        """Raises `ClockAhead` if what is written now would be from the future; see `Drift`."""
        self.drift.check(self._region, now_ms, written_ms, self._monotonic_ms())

    def silence_ms(self, peer: str) -> int | None:
        """For how long a peer has been silent; None if it was never heard."""
        return self._hearing.silence_ms(peer, self._monotonic_ms())

    def lost_ms(self) -> dict[str, int | None]:
        """By peer, for how long it gave no sign of life: 0 if it lives, None if it never did."""
        return {peer: self._hearing.lost_ms(peer, self._monotonic_ms()) for peer in self._peers}

    def reach(self) -> Mapping[str, Reach]:
        """How the group's regions stand, the own included: whether they live, as far as is known.

        A region whose own link is down is reachable while another region hears it.
        """
        now = self._monotonic_ms()
        found = {self._region: Reach(True, self._now_ms())}
        for peer in self._peers:
            reachable = self._hearing.reachable(peer, now)
            found[peer] = Reach(reachable, self._last_heard_ms.get(peer))
        return found

    def reachable(self, peer: str) -> bool:
        """Whether a peer lives, as far as is known."""
        return self._hearing.reachable(peer, self._monotonic_ms())

    @property
    def all_reachable(self) -> set[str]:
        """The regions that live, as far as is known, the own included."""
        return {self._region, *filter(self.reachable, self._peers)}

    def look(self) -> bool:
        """Looks who is there now; tells whether reach changed since somebody looked last."""
        now = self._monotonic_ms()
        reachable = {peer: self._hearing.reachable(peer, now) for peer in self._peers}
        self.linked = {peer for peer in self._peers if self._hearing.linked(peer, now)}
        changed = reachable != self._reachable
        self._reachable = reachable
        return changed
