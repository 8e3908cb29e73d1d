"""HLS media playlists (RFC 8216): parse, build, and extend a live one.

Pure. Two kinds meet here: the private playlist that an encoder writes, and a channel's live
playlist, to which one encoder after the other adds its segments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

_HEADER = "#EXTM3U"
_VERSION = 6
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class PlaylistError(ValueError):
    """The text is not a media playlist that this module can read; the message says which line."""


@dataclass(frozen=True)
class Segment:
    """One media file.

    `uri` is relative to the playlist and ends in ``-<index>.ts``; `duration_ms` is its length and
    `start_ms` when its first picture was taken, in milliseconds since 1970.
    """

    uri: str
    duration_ms: int
    start_ms: int
    discontinuity: bool = False

    @property
    def end_ms(self) -> int:
        """When its last picture ends."""
        return self.start_ms + self.duration_ms

    @property
    def run(self) -> str:
        """What all segments of one encoder process share: the URI without its index."""
        return self.uri.rpartition("-")[0]

    @property
    def index(self) -> int:
        """Its place in the run, from 0. Raises `PlaylistError` if the URI has none."""
        digits = self.uri.rpartition("-")[2].removesuffix(".ts")
        if not digits.isdigit():
            raise PlaylistError(f"segment {self.uri!r} does not end in -<index>.ts")
        return int(digits)

    def follows(self, other: Segment) -> bool:
        """Whether it continues `other` without a break."""
        return self.run == other.run and self.index == other.index + 1


@dataclass(frozen=True)
class Playlist:
    """A media playlist; `sequence` and `discontinuity_sequence` are those of its first segment."""

    segments: tuple[Segment, ...] = ()
    sequence: int = 0
    discontinuity_sequence: int = 0
    target_s: int = 1
    ended: bool = False


def extend(playlist: Playlist, added: Sequence[Segment], window: int) -> Playlist:
    """The live playlist with `added` at its end, cut to the newest `window` segments.

    A segment that does not continue its predecessor gets a discontinuity. What leaves at the front
    counts on in the two sequence numbers (RFC 8216, section 6.2.2). Nothing may be added twice.
    """
    segments = list(playlist.segments)
    for segment in added:
        broken = bool(segments) and not segment.follows(segments[-1])
        segments.append(replace(segment, discontinuity=broken))
    leaving = segments[: max(0, len(segments) - window)]
    longest = max((round_half_up(s.duration_ms) for s in segments), default=1)
    return Playlist(
        segments=tuple(segments[len(leaving) :]),
        sequence=playlist.sequence + len(leaving),
        discontinuity_sequence=playlist.discontinuity_sequence
        + sum(segment.discontinuity for segment in leaving),
        target_s=max(playlist.target_s, longest, 1),
    )


def round_half_up(duration_ms: int) -> int:
    """Seconds as players round them to compare a segment with the target duration."""
    return (duration_ms + 500) // 1000


def build(playlist: Playlist) -> str:
    """The playlist's text."""
    lines = [
        _HEADER,
        f"#EXT-X-VERSION:{_VERSION}",
        f"#EXT-X-TARGETDURATION:{playlist.target_s}",
        f"#EXT-X-MEDIA-SEQUENCE:{playlist.sequence}",
        f"#EXT-X-DISCONTINUITY-SEQUENCE:{playlist.discontinuity_sequence}",
        "#EXT-X-INDEPENDENT-SEGMENTS",
    ]
    for segment in playlist.segments:
        if segment.discontinuity:
            lines.append("#EXT-X-DISCONTINUITY")
        lines.append(f"#EXT-X-PROGRAM-DATE-TIME:{_date(segment.start_ms)}")
        lines.append(f"#EXTINF:{segment.duration_ms / 1000:.3f},")
        lines.append(segment.uri)
    if playlist.ended:
        lines.append("#EXT-X-ENDLIST")
    return "\n".join(lines) + "\n"


def parse(text: str) -> Playlist:
    """Reads a media playlist whose first segment has a date. Raises `PlaylistError`.

    A segment without a date starts where the one before it ends. Unknown tags are passed over, as
    the RFC asks.
    """
    lines = text.splitlines()
    if not lines or lines[0] != _HEADER:
        raise PlaylistError(f"line 1 is not {_HEADER}")
    segments: list[Segment] = []
    tags: dict[str, str] = {}
    duration: int | None = None
    start: int | None = None
    discontinuity = False
    for number, line in enumerate(lines[1:], start=2):
        tag, _, value = line.partition(":")
        try:
            if not line.startswith("#") and line:
                if start is None and segments:
                    start = segments[-1].end_ms
                if duration is None or start is None:
                    raise PlaylistError("a segment needs #EXTINF, and the first one a date")
                segments.append(Segment(line, duration, start, discontinuity))
                duration, start, discontinuity = None, None, False
            elif tag == "#EXTINF":
                duration = round(float(value.partition(",")[0]) * 1000)
            elif tag == "#EXT-X-PROGRAM-DATE-TIME":
                start = _milliseconds(value)
            elif tag == "#EXT-X-DISCONTINUITY":
                discontinuity = True
            elif line.startswith("#EXT-X-"):
                tags[tag] = value
        except ValueError as error:
            raise PlaylistError(f"line {number}: {error}") from None
    try:
        return Playlist(
            segments=tuple(segments),
            sequence=int(tags.get("#EXT-X-MEDIA-SEQUENCE", "0")),
            discontinuity_sequence=int(tags.get("#EXT-X-DISCONTINUITY-SEQUENCE", "0")),
            target_s=int(tags.get("#EXT-X-TARGETDURATION", "1")),
            ended="#EXT-X-ENDLIST" in tags,
        )
    except ValueError as error:
        raise PlaylistError(f"a tag has no number: {error}") from None


def _date(milliseconds: int) -> str:
    seconds, rest = divmod(milliseconds, 1000)
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{rest:03d}Z"


def _milliseconds(text: str) -> int:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"the date {text!r} has no time zone")
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1000 + since.microseconds // 1000
