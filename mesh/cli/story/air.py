"""Whether a channel is on air, as the world sees it: one playlist URL that advances and decodes."""

from __future__ import annotations

import asyncio
import re
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin

import imageio_ffmpeg

_SEQUENCE = re.compile(r"#EXT-X-MEDIA-SEQUENCE:(\d+)")
_DECODE_WITHIN = 20.0


@dataclass(frozen=True)
class LivePlaylist:
    """What the URL said: the number of the last segment, its URL, and all takeovers in sight."""

    last: int
    segment: str
    discontinuities: int


async def fetch(url: str) -> LivePlaylist | None:
    """The playlist at `url`; None if there is none yet."""
    text = await asyncio.to_thread(_get, url)
    if text is None:
        return None
    lines = text.decode().splitlines()
    uris = [line for line in lines if line and not line.startswith("#")]
    found = _SEQUENCE.search(text.decode())
    if not uris:
        return None
    return LivePlaylist(
        (int(found[1]) if found else 0) + len(uris) - 1,
        urljoin(url, uris[-1]),
        sum(line == "#EXT-X-DISCONTINUITY" for line in lines),
    )


async def decodes(segment_url: str, scratch: Path) -> str:
    """Decodes a segment with ffmpeg; returns why it does not, or an empty string."""
    content = await asyncio.to_thread(_get, segment_url)
    if not content:
        return f"{segment_url} cannot be fetched"
    file = scratch / "segment.ts"
    file.write_bytes(content)
    process = await asyncio.create_subprocess_exec(
        imageio_ffmpeg.get_ffmpeg_exe(),
        *("-v", "error", "-xerror", "-i", str(file), "-map", "0:v:0", "-f", "null", "-"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_DECODE_WITHIN):
            _, said = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        return f"ffmpeg did not decode it within {_DECODE_WITHIN:.0f} s"
    return "" if process.returncode == 0 else said.decode(errors="replace").strip()


def encoders(folder: Path) -> list[int]:
    """The pids of processes on this machine whose command line names `folder`."""
    wanted = str(folder).encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
        except OSError:
            continue  # it ended while we looked
        if wanted in command and b"ffmpeg" in command.split(b"\0")[0]:
            found.append(int(process.name))
    return found


def _get(url: str) -> bytes | None:
    try:
        with urllib.request.urlopen(url, timeout=2) as reply:  # noqa: S310  our own origin's URL
            content: bytes = reply.read()
            return content
    except (urllib.error.URLError, OSError):
        return None
