"""Puts an encoder's finished segments into the channel's one live playlist.

In a channel's folder lie `live.m3u8` (what the world plays), `live.json` (the fence: the highest
assignment that ever published), `live.lock`, and a folder for each encoding. Whoever publishes
holds the lock; a publisher below the fence is refused, so the playlist never goes back to a loser
however late it hears that it lost. Readers need no lock: both files change by rename.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from services.device_agent.fences import Key
from services.device_agent.playlist import Playlist, PlaylistError, Segment, build, extend, parse

WINDOW = 12
"""Segments in a live playlist."""

_LOCK_TRIES = 40
_LOCK_PAUSE_S = 0.05
_SWEEP_AGE_S = 60
_SWEEP_EVERY = 30


@dataclass(frozen=True)
class Published:
    """Segments went out; `gap_ms` is the picture lost since the last segment of another device,
    None if this encoding just went on."""

    gap_ms: int | None


@dataclass(frozen=True)
class Refused:
    """A higher assignment published before; nothing changed."""

    fence: Key


class LockBusy(Exception):
    """Another publisher holds the channel's lock for too long; try again."""


@dataclass(frozen=True)
class Publisher:
    """Publishes one encoding.

    `folder` is the encoding's own, inside the channel's; `device_id` tells a takeover from a
    restart on the same device.
    """

    channel: Path
    folder: str
    device_id: str
    window: int = WINDOW

    def publish(self, key: Key, segments: Sequence[Segment]) -> Published | Refused:
        """Adds segments, whose URIs are relative to the own folder, under assignment `key`.

        Blocks for the length of a few file operations. Raises `LockBusy`, or `OSError` if the
        origin cannot be written.
        """
        with _locked(self.channel / "live.lock"):
            fence, holder = self._fence()
            if fence is not None and key < fence:
                return Refused(fence)
            if fence != key or holder != self.device_id:
                self._raise_fence(key)
            live = self._live()
            added = [replace(s, uri=f"{self.folder}/{s.uri}") for s in segments]
            known = {segment.uri for segment in live.segments}
            added = [segment for segment in added if segment.uri not in known]
            if not added:
                return Published(None)
            gap = None
            if live.segments and holder != self.device_id:
                gap = max(0, added[0].start_ms - live.segments[-1].end_ms)
            extended = extend(live, added, self.window)
            _replace(self.channel / "live.m3u8", build(extended))
            if gap is not None or extended.sequence % _SWEEP_EVERY == 1:
                self._sweep(extended)
            return Published(gap)

    def _fence(self) -> tuple[Key | None, str]:
        try:
            document = json.loads((self.channel / "live.json").read_text())
        except FileNotFoundError:
            return None, ""
        return Key(document["epoch"], document["region"]), document["device_id"]

    def _raise_fence(self, key: Key) -> None:
        # Before the playlist: after a crash between the two, the loser is still kept out.
        document = {"epoch": key.epoch, "region": key.region, "device_id": self.device_id}
        _replace(self.channel / "live.json", json.dumps(document))

    def _live(self) -> Playlist:
        try:
            return parse((self.channel / "live.m3u8").read_text())
        except (FileNotFoundError, PlaylistError):
            # Nobody but publishers writes it, whole; if it is gone or damaged, begin a new one.
            return Playlist()

    def _sweep(self, live: Playlist) -> None:
        """Removes folders of encodings that ended and left the window.

        Young ones stay: a player that read the playlist before may still fetch from them, and an
        encoder that was fenced may still write.
        """
        used = {segment.uri.partition("/")[0] for segment in live.segments} | {self.folder}
        oldest = time.time_ns() / 1e9 - _SWEEP_AGE_S
        for entry in self.channel.iterdir():
            if entry.is_dir() and entry.name not in used and entry.stat().st_mtime < oldest:
                shutil.rmtree(entry, ignore_errors=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        for _ in range(_LOCK_TRIES):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(_LOCK_PAUSE_S)
        else:
            raise LockBusy(f"{path} is held by another publisher")
        yield
    finally:
        os.close(descriptor)


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(text)
    temporary.replace(path)
