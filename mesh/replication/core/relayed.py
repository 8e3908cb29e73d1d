"""Frames that a relay sent, held until their origin's signature proves them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from mesh.replication.core.clocks import Origin
from mesh.replication.core.errors import SignatureInvalid
from mesh.replication.core.frames import Frame, follow
from mesh.replication.core.journal import Journal
from mesh.replication.core.signatures import Head, Verdict


class Relayed:
    """What came on one stream and is not proven yet.

    One signature proves all frames before it, so that what came together is proven at once.
    """

    def __init__(self, journal: Journal, peer: str) -> None:
        self._journal = journal
        self._peer = peer
        self._held: dict[Origin, deque[Frame]] = {}
        self._examined: dict[Origin, int] = {}
        self._keys = 0
        self.refusal = ""
        """Why the key that came last could not be believed."""

    def introduce(self, statement: bytes) -> None:
        """The peer introduces a key. An honest one may pass on what only others can check."""
        self.refusal = self._journal.keys.learn(statement, self._peer)

    def hold(self, frame: Frame) -> None:
        """Holds a frame. Raises `ChainBroken` and `HistoryTruncated`."""
        frames = self._held.get(frame.origin)
        known, head = (
            (frames[-1].last, frames[-1].hash)
            if frames
            else self._journal.arrivals.end(frame.origin)
        )
        if frame.last > known:
            follow(frame, known, head)
            self._held.setdefault(frame.origin, deque()).append(frame)

    def release(self) -> bool:
        """Gives the journal what is proven by now; tells whether that was anything new.

        Raises `SignatureInvalid`, and what `Journal.take` raises.
        """
        if self._journal.keys.known != self._keys:
            self._keys = self._journal.keys.known
            self._examined.clear()
        new = False
        for origin, frames in list(self._held.items()):
            known, _ = self._journal.arrivals.end(origin)
            while frames and frames[0].last <= known:
                frames.popleft()  # it came from elsewhere meanwhile
            for _ in range(self._proven(origin, frames)):
                frame = frames.popleft()
                # Only now: a relay may lie about when something was made as well.
                self._journal.lag.note(origin, frame.first, frame.columns.clocks[0])
                new |= self._journal.take(frame)
            if not frames:
                del self._held[origin]
        return new

    def _proven(self, origin: Origin, frames: deque[Frame]) -> int:
        """How many of an origin's frames, from the first, may be taken."""
        examined = self._examined.get(origin, 0)
        for count in range(len(frames), 0, -1):
            frame = frames[count - 1]
            if frame.last <= examined:
                break
            head = Head(origin, frame.last, frame.newest, frame.hash)
            match self._journal.keys.examine(head, frame.signature):
                case Verdict.PROVEN:
                    return count
                case Verdict.FALSE:
                    raise SignatureInvalid(
                        f"{self._peer} relayed the frame of {origin} at {frame.first}, which its "
                        "origin did not sign"
                    )
        if frames:
            self._examined[origin] = frames[-1].last
        return 0

    def __iter__(self) -> Iterator[Frame]:
        """What is held."""
        for frames in self._held.values():
            yield from frames
