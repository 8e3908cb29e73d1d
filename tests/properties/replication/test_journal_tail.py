"""The journal's end in memory tells what the whole log does."""

from __future__ import annotations

from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st

from mesh.replication import tail
from mesh.replication.core.clocks import Origin
from mesh.replication.core.frames import StoredFrame
from mesh.replication.core.receipts import Receipt, ReceiptKey
from mesh.replication.tail import Tail

ORIGINS = [Origin("eu", 1), Origin("us", 1)]
GAP = 10

# By origin, how many changes a frame has, how long it is, and what a snapshot brought before it.
written = st.lists(
    st.tuples(
        st.sampled_from(ORIGINS),
        st.integers(1, 3),
        st.integers(1, 30),
        st.sampled_from([0, 0, 0, GAP]),
    ),
    max_size=25,
)


class Log:
    """All frames; whoever asks for some is noted."""

    def __init__(self) -> None:
        self.frames: list[StoredFrame] = []
        self.asked = 0

    def after(self, origin: Origin, sequence: int, most_bytes: int) -> list[StoredFrame]:
        self.asked += 1
        found: list[StoredFrame] = []
        for frame in self.frames:
            if frame.origin == origin and frame.last > sequence:
                if found and sum(len(each.body) for each in found) >= most_bytes:
                    break
                found.append(frame)
        return found

    def receipts(self, after: ReceiptKey, most_bytes: int, until_ms: int) -> list[Receipt]:
        return []


@given(written, st.sampled_from(ORIGINS), st.integers(0, 80), st.integers(0, 60))
def test_the_tail_answers_as_the_log_does(
    frames: list[tuple[Origin, int, int, int]], origin: Origin, sequence: int, most: int
) -> None:
    log = Log()
    kept = Tail(log)
    ends = dict.fromkeys(ORIGINS, 0)
    with patch.object(tail, "KEPT_BYTES", 100):
        for place, (of, changes, size, gap) in enumerate(frames, 1):
            first = ends[of] + gap + 1
            ends[of] = first + changes - 1
            frame = StoredFrame(place, of, first, ends[of], b"x" * size, b"hash")
            log.frames.append(frame)
            kept.append([frame])
    assert kept.after(origin, sequence, most) == log.after(origin, sequence, most)


def test_what_was_just_committed_is_not_read_again() -> None:
    log = Log()
    kept = Tail(log)
    kept.append([StoredFrame(n, ORIGINS[0], n, n, b"x", b"hash") for n in range(1, 10)])
    assert [frame.first for frame in kept.after(ORIGINS[0], 6, 1 << 20)] == [7, 8, 9]
    assert log.asked == 0
