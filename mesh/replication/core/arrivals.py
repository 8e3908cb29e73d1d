"""Frames from elsewhere, from when they are taken until they may be applied."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping

from mesh.replication.core.clocks import MAX_AHEAD_MS, Origin, Vector, above, covers, milliseconds
from mesh.replication.core.errors import ChainBroken
from mesh.replication.core.frames import GENESIS, MAX_BYTES, Frame, follow, take_apart
from mesh.replication.core.snapshots import Position

_BATCH_BYTES = 8 * MAX_BYTES


class Arrivals:
    """What came of each origin and waits: for its dependencies, or, from the future, for its time.

    `vector` is how far each origin has come, stored or not, with the hash of its chain there.
    """

    def __init__(
        self, vector: Mapping[Origin, int], heads: Mapping[Origin, bytes], now_ms: int
    ) -> None:
        self.vector = dict(vector)
        self.waiting: dict[Origin, deque[Frame]] = {}
        self._heads = dict(heads)
        self._named: Vector = {}
        self._now_ms = now_ms
        self._next_due_ms: int | None = None
        """When the time comes of the next frame that was found to be from the future."""

    @property
    def known_of(self) -> Mapping[Origin, int]:
        """How far each origin has come, or must have: what frames that came depend on was written.

        Whoever wrote it may have lost it since, and nobody else may have it.
        """
        return above(self.vector, self._named)

    def end(self, origin: Origin) -> tuple[int, bytes]:
        """How far an origin has come, stored or not, and the hash of its chain there."""
        return self.vector.get(origin, 0), self._heads.get(origin, GENESIS)

    def take(self, frame: Frame) -> bool:
        """Takes a frame that is vouched for; tells whether it is new here.

        Raises `ChainBroken`, and `HistoryTruncated` (a gap before it); it is not kept then.
        """
        origin = frame.origin
        known, head = self.end(origin)
        if frame.last <= known:
            return False
        follow(frame, known, head)
        try:
            take_apart(frame)
        except ChainBroken as error:
            where = f"the frame of {origin} at {frame.first}"
            raise ChainBroken(f"{where} is damaged: {error}") from None
        self.came(frame)
        for named, sequence in frame.dependencies.items():
            if sequence > self._named.get(named, 0):
                self._named[named] = sequence
        self.waiting.setdefault(origin, deque()).append(frame)
        return True

    def came(self, frame: Frame) -> None:
        """An origin came so far: by a frame that is taken, or that was written here."""
        self.vector[frame.origin] = frame.last
        self._heads[frame.origin] = frame.hash

    def pass_time(self, now_ms: int) -> bool:
        """Says what the clock shows. Returns whether the time of a frame from the future came."""
        self._now_ms = now_ms
        return self._next_due_ms is not None and self._next_due_ms <= now_ms

    @property
    def early(self) -> dict[Origin, int]:
        """The origins whose next change comes from the future: how far ahead of the clock here."""
        return {
            origin: milliseconds(frames[0].newest) - self._now_ms
            for origin, frames in self.waiting.items()
            if _due_ms(frames[0]) > self._now_ms
        }

    def __iter__(self) -> Iterator[Frame]:
        """All that waits."""
        return (frame for frames in self.waiting.values() for frame in frames)

    def admit(self, vector: Vector) -> list[Frame]:
        """Takes the waiting frames whose dependencies `vector` covers, and adds them to it."""
        self._next_due_ms = None
        admitted: list[Frame] = []
        size = 0
        again = True
        while again and size < _BATCH_BYTES:
            again = False
            for origin, frames in self.waiting.items():
                while frames and size < _BATCH_BYTES and self._may_come(frames[0], vector):
                    frame = frames.popleft()
                    admitted.append(frame)
                    vector[origin] = frame.last
                    size += len(frame.body)
                    again = True
        self._tidy()
        return admitted

    def _may_come(self, frame: Frame, vector: Vector) -> bool:
        # Judged each time: the clock may be set back while a frame waits for what it depends on.
        due_ms = _due_ms(frame)
        if due_ms > self._now_ms:
            if self._next_due_ms is None or due_ms < self._next_due_ms:
                self._next_due_ms = due_ms
            return False
        return covers(vector, frame.dependencies)

    def again(self, frames: Iterable[Frame]) -> None:
        """Frames that were admitted could not be stored: they wait again."""
        for frame in reversed(list(frames)):
            self.waiting.setdefault(frame.origin, deque()).appendleft(frame)

    def skip(self, positions: Mapping[Origin, Position]) -> None:
        """All up to these positions is here by now, in another way."""
        for origin, position in positions.items():
            frames = self.waiting.get(origin, deque())
            while frames and frames[0].last <= position.sequence:
                frames.popleft()
            if self.vector.get(origin, 0) <= position.sequence:
                self.vector[origin] = position.sequence
                self._heads[origin] = position.hash
        self._tidy()

    def _tidy(self) -> None:
        self.waiting = {origin: frames for origin, frames in self.waiting.items() if frames}


def _due_ms(frame: Frame) -> int:
    """From when on a frame may be applied: no more of it is from the future than is allowed."""
    return milliseconds(frame.newest) - MAX_AHEAD_MS
