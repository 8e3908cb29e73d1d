"""Which regions are heard. A region that was silent for too long counts as lost."""

from __future__ import annotations

from collections.abc import Iterable

DEFAULT_LOST_AFTER_MS = 3000


class Hearing:
    """When each peer was last heard, on a monotonic clock in milliseconds."""

    def __init__(self, peers: Iterable[str], lost_after_ms: int = DEFAULT_LOST_AFTER_MS) -> None:
        self._lost_after_ms = lost_after_ms
        self._heard: dict[str, int | None] = dict.fromkeys(peers)

    def heard(self, peer: str, now_ms: int) -> None:
        """A frame or heartbeat came from a peer."""
        if peer in self._heard:
            self._heard[peer] = now_ms

    def silence_ms(self, peer: str, now_ms: int) -> int | None:
        """For how long a peer has been silent; None if it was never heard."""
        heard = self._heard.get(peer)
        return None if heard is None else now_ms - heard

    def reachable(self, peer: str, now_ms: int) -> bool:
        """Whether a peer was heard lately."""
        silence = self.silence_ms(peer, now_ms)
        return silence is not None and silence <= self._lost_after_ms
