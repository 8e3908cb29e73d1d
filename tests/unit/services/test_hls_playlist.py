"""Playlists: what is built can be read, and a live one is valid after any history."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.device_agent.playlist import (
    Playlist,
    PlaylistError,
    Segment,
    build,
    extend,
    parse,
    round_half_up,
)

FFMPEG = """\
#EXTM3U
#EXT-X-VERSION:6
#EXT-X-TARGETDURATION:1
#EXT-X-MEDIA-SEQUENCE:3
#EXT-X-INDEPENDENT-SEGMENTS
#EXTINF:1.000000,
#EXT-X-PROGRAM-DATE-TIME:2026-11-22T21:41:01.629+0000
r-000003.ts
#EXTINF:0.600000,
r-000004.ts
#EXT-X-ENDLIST
"""

runs = st.lists(
    st.tuples(
        st.sampled_from(["a/1", "b/2", "c/3"]),
        st.integers(min_value=1, max_value=5),
        st.integers(min_value=0, max_value=3_000),
    ),
    max_size=8,
)


def history(parts: list[tuple[str, int, int]]) -> list[list[Segment]]:
    """Batches of segments of several runs; indices go on when a run comes back."""
    counts: dict[str, int] = {}
    now = 1_700_000_000_000
    batches = []
    for run, count, pause in parts:
        now += pause
        batch = []
        for _ in range(count):
            index = counts.get(run, 0)
            counts[run] = index + 1
            batch.append(Segment(f"{run}-{index:06d}.ts", 1000, now))
            now += 1000
        batches.append(batch)
    return batches


def test_reads_what_ffmpeg_writes() -> None:
    playlist = parse(FFMPEG)
    first, second = playlist.segments
    assert (playlist.sequence, playlist.target_s, playlist.ended) == (3, 1, True)
    assert (first.run, first.index, first.duration_ms) == ("r", 3, 1000)
    assert first.start_ms % 1000 == 629
    assert second.start_ms == first.end_ms
    assert second.follows(first)


@given(runs, st.integers(min_value=1, max_value=12))
def test_a_live_playlist_is_valid_after_any_history(
    parts: list[tuple[str, int, int]], window: int
) -> None:
    live = Playlist()
    everything: list[Segment] = []
    for batch in history(parts):
        before = live
        live = extend(live, batch, window)
        everything += batch
        assert parse(build(live)) == live
        assert live.sequence >= before.sequence
        assert live.discontinuity_sequence >= before.discontinuity_sequence
    # RFC 8216: the sequence numbers count what has left.
    assert live.sequence + len(live.segments) == len(everything)
    assert [s.uri for s in live.segments] == [s.uri for s in everything][-window:]
    breaks = [not later.follows(earlier) for earlier, later in itertools.pairwise(everything)]
    assert live.discontinuity_sequence + sum(s.discontinuity for s in live.segments) == sum(breaks)
    for earlier, later in zip(live.segments, live.segments[1:], strict=False):
        assert later.discontinuity != later.follows(earlier)
    assert all(round_half_up(s.duration_ms) <= live.target_s for s in live.segments)


@given(runs)
def test_each_segment_keeps_its_numbers_while_it_is_listed(
    parts: list[tuple[str, int, int]],
) -> None:
    numbers: dict[str, tuple[int, int]] = {}
    live = Playlist()
    for batch in history(parts):
        live = extend(live, batch, 4)
        epoch = live.discontinuity_sequence
        for at, segment in enumerate(live.segments):
            epoch += segment.discontinuity
            place = (live.sequence + at, epoch)
            assert numbers.setdefault(segment.uri, place) == place


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "line 1"),
        ("#EXTM3U\na-1.ts\n", "line 2"),
        ("#EXTM3U\n#EXTINF:x,\n", "line 2"),
        ("#EXTM3U\n#EXT-X-PROGRAM-DATE-TIME:2026-01-01T00:00:00\n", "time zone"),
        ("#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:x\n", "number"),
    ],
)
def test_says_where_a_playlist_is_wrong(text: str, said: str) -> None:
    with pytest.raises(PlaylistError, match=said):
        parse(text)
