"""Puts an encoder's finished segments into the channel's one live playlist.

In a channel's folder lie `live.m3u8` (what the world plays), `live.json` (the fence: the highest
assignment that ever published), `live.lock`, and a folder for each encoding. Whoever publishes
holds the lock; a publisher below the fence is refused, so the playlist never goes back to a loser
however late it hears that it lost. Readers need no lock: all files change by rename.

A device may hang while it holds the lock, and go on later. So a higher assignment takes the lock
away after a while, and each assignment writes a playlist of its own, which `live.m3u8` is a link
to: what the hanging one was about to write is then read by nobody.
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
"""A lock that is held for so long, two seconds, is held by a device that hangs."""

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
    """A publisher of this assignment or of a higher one holds the channel's lock for too long."""


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

        Blocks for the length of a few file operations, or for two seconds if the device before
        hangs. Raises `LockBusy`, or `OSError` if the origin cannot be written.
        """
        own = self.channel / f"live-{key.epoch}-{key.region}-{self.device_id}.m3u8"
        with self._locked(key):
            fence, holder = self._fence()
            if fence is not None and key < fence:
                return Refused(fence)
            live = self._live(own)
            if fence != key or holder != self.device_id or not self._shows(own):
                self._raise_fence(key)
                self._replace(own, build(live))
                self._show(own)
            added = [replace(s, uri=f"{self.folder}/{s.uri}") for s in segments]
            known = {segment.uri for segment in live.segments}
            added = [segment for segment in added if segment.uri not in known]
            if not added:
                return Published(None)
            gap = None
            if live.segments and holder != self.device_id:
                gap = max(0, added[0].start_ms - live.segments[-1].end_ms)
            extended = extend(live, added, self.window)
            self._replace(own, build(extended))
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
        self._replace(self.channel / "live.json", json.dumps(document))

    def _live(self, own: Path) -> Playlist:
        """What is live: the own playlist goes on, or else what the world plays now."""
        for path in (own, self.channel / "live.m3u8"):
            try:
                return parse(path.read_text())
            except (FileNotFoundError, PlaylistError):
                continue
        # Nobody but publishers writes them, whole; if all are gone or damaged, begin a new one.
        return Playlist()

    def _shows(self, own: Path) -> bool:
        """Whether the world plays the own playlist."""
        try:
            return (self.channel / "live.m3u8").readlink() == Path(own.name)
        except OSError:
            return False

    def _show(self, own: Path) -> None:
        link = self._temporary("live.m3u8")
        link.unlink(missing_ok=True)
        link.symlink_to(own.name)
        link.replace(self.channel / "live.m3u8")

    def _replace(self, path: Path, text: str) -> None:
        temporary = self._temporary(path.name)
        temporary.write_text(text)
        temporary.replace(path)

    def _temporary(self, name: str) -> Path:
        # A device that goes on after the lock was taken from it must not write into another's.
        return self.channel / f".{name}.{self.device_id}.new"

    def _sweep(self, live: Playlist) -> None:
        """Removes folders of encodings that ended and left the window, and playlists of the past.

        Young ones stay: a player that read the playlist before may still fetch from them, and an
        encoder that was fenced may still write.
        """
        current = (self.channel / "live.m3u8").readlink()
        used = {segment.uri.partition("/")[0] for segment in live.segments} | {self.folder}
        oldest = time.time_ns() / 1e9 - _SWEEP_AGE_S
        for entry in self.channel.iterdir():
            if entry.is_dir() and entry.name not in used and entry.stat().st_mtime < oldest:
                shutil.rmtree(entry, ignore_errors=True)
        for entry in self.channel.glob("live-*.m3u8"):
            if entry.name != current.name and entry.stat().st_mtime < oldest:
                entry.unlink(missing_ok=True)

    @contextmanager
    def _locked(self, key: Key) -> Iterator[None]:
        path = self.channel / "live.lock"
        descriptor = _lock(path)
        if descriptor is None:
            fence, _ = self._fence()
            if fence is not None and key <= fence:
                raise LockBusy(f"{path} is held by another publisher")
            # Whoever holds it hangs, with a lower assignment: let it have that file for itself.
            path.unlink(missing_ok=True)
            descriptor = _lock(path)
            if descriptor is None:
                raise LockBusy(f"{path} is held by another publisher")
        try:
            yield
        finally:
            os.close(descriptor)


def _lock(path: Path) -> int | None:
    """A descriptor that holds the lock until it is closed; None if it is not to be had in time."""
    for _ in range(_LOCK_TRIES):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(descriptor, path):
                return descriptor
        except BlockingIOError:
            pass
        os.close(descriptor)
        time.sleep(_LOCK_PAUSE_S)
    return None


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file is still the one under a path: a lock may have been taken away."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
