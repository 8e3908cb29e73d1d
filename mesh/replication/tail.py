"""The journal's end in memory: what links send next was mostly committed a moment ago."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from mesh.replication.core.clocks import Origin
from mesh.replication.core.frames import FrameLog, StoredFrame
from mesh.replication.core.receipts import Receipt, ReceiptKey

KEPT_BYTES = 8 << 20


class Tail:
    """The newest frames of a log, and behind them the log itself. A `FrameLog`."""

    def __init__(self, log: FrameLog) -> None:
        self._log = log
        # Each origin's frames without a gap; `_order` has them as they were committed.
        self._held: dict[Origin, deque[StoredFrame]] = {}
        self._order: deque[StoredFrame] = deque()
        self._bytes = 0

    def append(self, frames: Iterable[StoredFrame]) -> None:
        """Frames were committed."""
        for frame in frames:
            held = self._held.setdefault(frame.origin, deque())
            if held and held[-1].last + 1 != frame.first:
                held.clear()  # A snapshot has brought what is between.
            held.append(frame)
            self._order.append(frame)
            self._bytes += len(frame.body)
        while self._bytes > KEPT_BYTES:
            oldest = self._order.popleft()
            self._bytes -= len(oldest.body)
            held = self._held[oldest.origin]
            if held and held[0] is oldest:
                held.popleft()

    def after(self, origin: Origin, sequence: int, most_bytes: int) -> list[StoredFrame]:
        """See `FrameLog.after`."""
        held = self._held.get(origin)
        if not held or held[0].first > sequence + 1:
            return self._log.after(origin, sequence, most_bytes)
        beyond: list[StoredFrame] = []
        for frame in reversed(held):
            if frame.last <= sequence:
                break
            beyond.append(frame)
        found: list[StoredFrame] = []
        size = 0
        while beyond and (size < most_bytes or not found):
            found.append(beyond.pop())
            size += len(found[-1].body)
        return found

    def receipts(self, after: ReceiptKey, most_bytes: int, until_ms: int) -> list[Receipt]:
        """See `FrameLog.receipts`."""
        return self._log.receipts(after, most_bytes, until_ms)
