"""One channel's encoder on this device: a real ffmpeg that is watched, restarted and published."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog
from isthmus.channels.v1.channel_pb2 import Profile, Source
from isthmus.devices.v1.device_pb2 import (
    ENCODING_STATE_FAILED,
    ENCODING_STATE_FENCED,
    ENCODING_STATE_ON_AIR,
    ENCODING_STATE_RESTARTING,
    ENCODING_STATE_STARTING,
    Encoding,
    EncodingState,
)

from services.device_agent.command import SourceError, arguments
from services.device_agent.fences import Key
from services.device_agent.playlist import PlaylistError, Segment, parse
from services.device_agent.progress import Progress, ProgressParser
from services.device_agent.publisher import LockBusy, Publisher, Refused

_log = structlog.get_logger()

_POLL_S = 0.1
_START_S = 15.0
_STALL_S = 4.0
_BACKOFF_S, _BACKOFF_MOST_S = 0.2, 5.0
_HOPELESS = 4
_ERROR_MOST = 300


@dataclass(frozen=True)
class Job:
    """What an assignment asks of this device."""

    channel_id: str
    key: Key
    source: Source
    profile: Profile
    previous_device_id: str = ""

    def same_picture(self, other: Job) -> bool:
        """Whether a running encoder serves both."""
        return self.source == other.source and self.profile == other.profile


@dataclass(frozen=True)
class Studio:
    """Where encoders run: their binary, what they may read, and where the world finds them."""

    device_id: str
    ffmpeg: str
    media_root: Path
    output: Path


class Encoder:
    """Keeps one ffmpeg alive until it is stopped.

    `changed` is called when the state changes in a way that operators want to know at once.
    """

    def __init__(self, job: Job, studio: Studio, changed: Callable[[], None]) -> None:
        self.job = job
        self.restarts = 0
        self._studio = studio
        self._changed = changed
        self._state: EncodingState.ValueType = ENCODING_STATE_STARTING
        self._error = ""
        self._progress = Progress(0, 0.0, 0, False)
        self._segments = 0
        self._gap_ms: int | None = None
        self._alive_at = 0.0
        self._published = -1
        self._task = asyncio.create_task(self._supervise(), name=f"encoder {job.channel_id}")

    @property
    def encoding(self) -> Encoding:
        """How it stands."""
        return Encoding(
            channel_id=self.job.channel_id,
            epoch=self.job.key.epoch,
            region=self.job.key.region,
            state=self._state,
            frames=self._progress.frames,
            speed=self._progress.speed,
            segments=self._segments,
            error=self._error,
            gap_seconds=None if self._gap_ms is None else self._gap_ms / 1000,
        )

    def reassign(self, job: Job) -> None:
        """Goes on under a newer assignment of the same picture, without a break."""
        if job.key != self.job.key:
            self._segments = 0
            if self._state == ENCODING_STATE_FENCED:
                self._set(ENCODING_STATE_STARTING)
        self.job = job
        self._changed()

    async def stop(self) -> None:
        """Kills ffmpeg and waits until it is gone."""
        # Once: a second time would interrupt its waiting for ffmpeg's end.
        if not self._task.cancelling():
            self._task.cancel()
        # Not awaited itself: whoever is cancelled here would take that for the encoder's end.
        await asyncio.wait({self._task})

    async def _supervise(self) -> None:
        studio, channel = self._studio, self._studio.output / self.job.channel_id
        key = self.job.key
        name = f"{key.epoch}-{key.region}-{studio.device_id}"
        publisher = Publisher(channel, name, studio.device_id)
        failures = 0
        while True:
            try:
                (channel / name).mkdir(parents=True, exist_ok=True)
                error = await self._run(publisher, channel / name)
            except (SourceError, OSError, ValueError) as problem:
                # A value that the system takes for no name is a ValueError.
                error = str(problem)
            failures = 0 if self._published >= 0 else failures + 1
            self.restarts += 1
            hopeless = failures >= _HOPELESS
            self._set(ENCODING_STATE_FAILED if hopeless else ENCODING_STATE_RESTARTING, error)
            _log.warning("encoder ended", channel=self.job.channel_id, error=error)
            await asyncio.sleep(min(_BACKOFF_MOST_S, _BACKOFF_S * 2**failures))

    async def _run(self, publisher: Publisher, folder: Path) -> str:
        """Runs ffmpeg once; returns why it ended."""
        # No run repeats the name of another, not even of one before this program was restarted.
        run = str(time.time_ns() // 1_000_000)
        self._published = -1
        command = arguments(
            self._studio.ffmpeg,
            self.job.source,
            self.job.profile,
            self._studio.media_root,
            folder,
            run,
        )
        # The kernel kills ffmpeg when this process dies, however it dies.
        process = await asyncio.create_subprocess_exec(
            *("setpriv", "--pdeathsig", "KILL", "--", *command),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None and process.stderr is not None  # noqa: S101 - both piped
        # A source from afar takes its time to begin.
        self._alive_at = time.monotonic() + _START_S - _STALL_S
        self._progress = Progress(0, 0.0, 0, False)
        readers = [
            asyncio.create_task(self._read_progress(process.stdout)),
            asyncio.create_task(_last_line(process.stderr)),
        ]
        publishing = asyncio.create_task(self._publish(publisher, folder, run))
        try:
            ended = asyncio.create_task(process.wait())
            await asyncio.wait({ended, publishing}, return_when=asyncio.FIRST_COMPLETED)
            if publishing.done():
                ended.cancel()
                return publishing.result()
            last = await readers[1]
            return self._without_url(str(last)) or f"ffmpeg ended with code {process.returncode}"
        finally:
            publishing.cancel()
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
            for reader in readers:
                reader.cancel()
            await asyncio.gather(publishing, *readers, return_exceptions=True)

    async def _read_progress(self, stream: asyncio.StreamReader) -> None:
        parser = ProgressParser()
        async for line in stream:
            progress = parser.feed(line.decode(errors="replace"))
            if progress is None:
                continue
            if progress.out_time_us > self._progress.out_time_us:
                self._alive_at = time.monotonic()
            self._progress = progress

    async def _publish(self, publisher: Publisher, folder: Path, run: str) -> str:
        """Publishes what appears; returns a reason once ffmpeg has stalled."""
        seen = 0
        while time.monotonic() - self._alive_at < _STALL_S:
            await asyncio.sleep(_POLL_S)
            playlist = folder / f"{run}.m3u8"
            try:
                changed = playlist.stat().st_mtime_ns
                if changed == seen:
                    continue
                segments = [s for s in parse(playlist.read_text()).segments if self._is_new(s)]
            except (FileNotFoundError, PlaylistError):
                continue
            if segments and not await self._offer(publisher, segments):
                continue
            seen = changed
        return "ffmpeg stalled and was killed"

    def _is_new(self, segment: Segment) -> bool:
        return segment.index > self._published

    async def _offer(self, publisher: Publisher, segments: list[Segment]) -> bool:
        """Whether these segments are dealt with."""
        key, count = self.job.key, len(segments)
        try:
            result = await asyncio.to_thread(publisher.publish, key, segments)
        except LockBusy as busy:
            _log.warning("live playlist is locked", channel=self.job.channel_id, error=str(busy))
            return False
        except OSError as error:
            self._set(ENCODING_STATE_FAILED, f"the origin cannot be written: {error}")
            return False
        # Refused ones count as dealt with too: they are old when this device wins again.
        self._published = segments[-1].index
        if key != self.job.key:
            return True
        if isinstance(result, Refused):
            self._set(
                ENCODING_STATE_FENCED,
                f"epoch {result.fence.epoch} of region {result.fence.region} is on air",
            )
            return True
        self._segments += count
        if result.gap_ms is not None and self.job.previous_device_id:
            self._gap_ms = result.gap_ms
        self._set(ENCODING_STATE_ON_AIR)
        return True

    def _set(self, state: EncodingState.ValueType, error: str = "") -> None:
        error = error[:_ERROR_MOST]
        if (state, error) != (self._state, self._error):
            self._state, self._error = state, error
            self._changed()

    def _without_url(self, text: str) -> str:
        # A URL may carry a stream key.
        url = self.job.source.url
        return text.replace(url, "the source") if url else text


async def _last_line(stream: asyncio.StreamReader) -> str:
    last = ""
    while chunk := await stream.read(4096):
        last = (last + chunk.decode(errors="replace"))[-2000:]
    lines = [line.strip() for line in last.splitlines() if line.strip()]
    return lines[-1] if lines else ""
