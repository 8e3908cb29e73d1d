"""Which regions are heard. A region that was silent for too long counts as lost.

Heartbeats pass on the clocks of the heartbeats that their sender heard, so that a region whose own
link is down is not taken for lost while another still hears it and relays its changes (after
van Renesse, Minsky and Hayden, "A Gossip-Style Failure Detection Service", 1998).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

DEFAULT_LOST_AFTER_MS = 3000


class Hearing:
    """When each peer gave a sign of life, on a monotonic clock in milliseconds."""

    def __init__(self, peers: Iterable[str], lost_after_ms: int = DEFAULT_LOST_AFTER_MS) -> None:
        self._lost_after_ms = lost_after_ms
        self._linked: dict[str, int | None] = dict.fromkeys(peers)
        self._alive: dict[str, int | None] = dict(self._linked)
        self._clocks: dict[str, int] = {}

    @property
    def clocks(self) -> Mapping[str, int]:
        """By peer, the highest clock of its heartbeats that came on any path: to pass on."""
        return self._clocks

    def heard(self, peer: str, now_ms: int) -> None:
        """Something came from a peer itself."""
        if peer in self._linked:
            self._linked[peer] = self._alive[peer] = now_ms

    def heard_of(self, clocks: Mapping[str, int], now_ms: int) -> set[str]:
        """A heartbeat named these clocks. Returns the peers of which it is a new sign of life."""
        known = self._clocks
        newer = [peer for peer, clock in clocks.items() if clock > known.get(peer, 0)]
        alive = self._alive.keys() & newer
        for peer in alive:
            self._clocks[peer] = clocks[peer]
            self._alive[peer] = now_ms
        return alive

    def silence_ms(self, peer: str, now_ms: int) -> int | None:
        """For how long nothing came from a peer itself; None if nothing ever did."""
        heard = self._linked.get(peer)
        return None if heard is None else now_ms - heard

    def lost_ms(self, peer: str, now_ms: int) -> int | None:
        """For how long there was no sign of life on any path; 0 if there was one lately.

        None if there never was.
        """
        alive = self._alive.get(peer)
        if alive is None:
            return None
        return 0 if self._lately(alive, now_ms) else now_ms - alive

    def linked(self, peer: str, now_ms: int) -> bool:
        """Whether something came lately from a peer itself: if not, others must relay for it."""
        return self._lately(self._linked.get(peer), now_ms)

    def reachable(self, peer: str, now_ms: int) -> bool:
        """Whether a peer gave a sign of life lately, on any path."""
        return self._lately(self._alive.get(peer), now_ms)

    def _lately(self, heard_ms: int | None, now_ms: int) -> bool:
        return heard_ms is not None and now_ms - heard_ms <= self._lost_after_ms
