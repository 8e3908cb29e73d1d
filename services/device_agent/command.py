"""From a source and a profile to ffmpeg's arguments.

Operators name sources and numbers; no word of theirs ever becomes an option, a filter or a shell's
business. Only `locate` looks at the disk.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from isthmus.channels.v1.channel_pb2 import (
    TEST_PATTERN_BARS,
    TEST_PATTERN_CLOCK,
    Profile,
    Source,
)

SEGMENT_S = 1
"""Length of a segment: what a takeover costs at least."""

_DEFAULT_WIDTH, _DEFAULT_HEIGHT, _DEFAULT_KBPS, _DEFAULT_RATE = 320, 180, 300, 10
# testsrc shows a running clock of its own: no font of the machine is needed.
_PATTERNS = {TEST_PATTERN_BARS: "smptebars", TEST_PATTERN_CLOCK: "testsrc"}
# What each scheme is made of; ffmpeg follows no redirect and no playlist to any other protocol.
_PROTOCOLS = {
    "https": "https,tls,tcp,crypto",
    "rtmps": "rtmps,rtmp,tls,tcp",
    "srt": "srt,udp",
}
# Containers that hold their own media. Without this, a file below the root could be a playlist
# that names files elsewhere.
_CONTAINERS = "mov,matroska,webm,mpegts,mpeg,flv,avi,mxf,ogg,wav,mp3"
# What only the web has besides; what they name is fetched under the same two lists.
_PLAYLISTS = "hls,dash,aac,ac3,webvtt"
_LISTED = 12
_KEPT = 24


class SourceError(Exception):
    """The source cannot be encoded; the message says why."""


@dataclass(frozen=True)
class Picture:
    """A profile with its defaults filled in; x264 wants even sides."""

    width: int
    height: int
    kbps: int
    rate: int

    @classmethod
    def of(cls, profile: Profile) -> Picture:
        """The numbers to encode with."""
        return cls(
            width=max(2, (profile.width or _DEFAULT_WIDTH) // 2 * 2),
            height=max(2, (profile.height or _DEFAULT_HEIGHT) // 2 * 2),
            kbps=profile.video_kbps or _DEFAULT_KBPS,
            rate=profile.frame_rate or _DEFAULT_RATE,
        )


def locate(file: str, media_root: Path) -> Path:
    """The real path of a source file. Raises `SourceError` if it is not a file below the root."""
    root = media_root.resolve()
    try:
        path = (root / file).resolve()
    except (OSError, ValueError) as error:
        raise SourceError(f"{file!r} names no file: {error}") from None
    if not path.is_relative_to(root):
        raise SourceError(f"{file!r} leads out of the media root")
    if not path.is_file():
        raise SourceError(f"there is no file {file!r} below the media root")
    return path


def arguments(
    ffmpeg: str, source: Source, profile: Profile, media_root: Path, folder: Path, run: str
) -> list[str]:
    """The command that encodes to `<folder>/<run>.m3u8` and `<folder>/<run>-<index>.ts`.

    Raises `SourceError`.
    """
    picture = Picture.of(profile)
    escaped = str(folder).replace("%", "%%")
    return [
        *(ffmpeg, "-hide_banner", "-nostdin", "-loglevel", "error", "-nostats"),
        *("-progress", "pipe:1", "-stats_period", "0.5"),
        *_input(source, picture, media_root),
        *_video(source, picture),
        *("-f", "hls", "-hls_time", str(SEGMENT_S)),
        # The first packets say that nothing comes before them: decoders start anew at a takeover.
        *("-hls_segment_options", "mpegts_flags=+initial_discontinuity"),
        *("-hls_list_size", str(_LISTED), "-hls_delete_threshold", str(_KEPT)),
        *("-hls_flags", "program_date_time+temp_file+delete_segments+independent_segments"),
        *("-hls_segment_filename", f"{escaped}/{run}-%06d.ts"),
        str(folder / f"{run}.m3u8"),
    ]


def _input(source: Source, picture: Picture, media_root: Path) -> list[str]:
    kind = source.WhichOneof("source")
    if kind == "test_pattern":
        pattern = _PATTERNS.get(source.test_pattern)
        if pattern is None:
            raise SourceError(f"test pattern {source.test_pattern} is not known to this device")
        size = f"size={picture.width}x{picture.height}:rate={picture.rate}"
        return ["-re", "-f", "lavfi", "-i", f"{pattern}={size}"]
    if kind == "file":
        path = locate(source.file, media_root)
        return [
            *("-re", "-stream_loop", "-1", "-protocol_whitelist", "file"),
            *("-format_whitelist", _CONTAINERS, "-i", f"file:{path}"),
        ]
    if kind == "url":
        scheme = source.url.partition("://")[0]
        protocols = _PROTOCOLS.get(scheme)
        if protocols is None:
            raise SourceError(f"{scheme!r} is none of {', '.join(_PROTOCOLS)}")
        web = scheme == "https"
        formats = f"{_CONTAINERS},{_PLAYLISTS}" if web else _CONTAINERS
        return [
            *(("-re",) if web else ()),
            *("-protocol_whitelist", protocols, "-format_whitelist", formats, "-i", source.url),
        ]
    raise SourceError("the channel has no source")


def _video(source: Source, picture: Picture) -> list[str]:
    sides = f"{picture.width}:{picture.height}"
    filters = (
        f"scale={sides}:force_original_aspect_ratio=decrease,"
        f"pad={sides}:(ow-iw)/2:(oh-ih)/2,fps={picture.rate},format=yuv420p"
    )
    rate = f"{picture.kbps}k"
    # Patterns are silent; what comes from outside keeps its first sound track.
    sound = (
        ["-an"]
        if source.WhichOneof("source") == "test_pattern"
        else ["-map", "0:a:0?", "-c:a", "aac", "-b:a", "64k", "-ac", "2"]
    )
    return [
        *("-map", "0:v:0", *sound, "-sn", "-dn", "-vf", filters),
        *("-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-threads", "1"),
        *("-b:v", rate, "-maxrate", rate, "-bufsize", f"{picture.kbps * 2}k"),
        # A key picture at each segment's start, and nowhere else.
        *("-g", str(picture.rate * SEGMENT_S), "-keyint_min", str(picture.rate * SEGMENT_S)),
        *("-sc_threshold", "0"),
    ]
