"""What the device obeys: the highest assignment of each channel, and nothing below it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

import structlog
from isthmus.devices.v1.device_pb2 import Encodings
from isthmus.devices.v1.gateway_pb2 import Fence, Run

from services.device_agent.encoder import Encoder, Job, Studio
from services.device_agent.fences import Fences, Key

_log = structlog.get_logger()

# These become names of folders: no gateway, however it came to it, leads out of the output folder.
_NAME = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")


class Agent:
    """All encoders of a device.

    It needs no gateway to keep running what it runs. `changed` is called whenever a report would
    say something new.
    """

    def __init__(self, studio: Studio, fences: Fences, changed: Callable[[], None]) -> None:
        self._studio = studio
        self._fences = fences
        self._changed = changed
        self._encoders: dict[str, Encoder] = {}
        self._restarts_of_stopped = 0
        self._restarts_reported = 0

    def encodings(self) -> Encodings:
        """Everything that runs here, by channel."""
        return Encodings(
            encodings=[encoder.encoding for _, encoder in sorted(self._encoders.items())]
        )

    def take_restarts(self) -> int:
        """Encoder processes that died since this was last asked."""
        total = self._restarts_of_stopped + sum(e.restarts for e in self._encoders.values())
        fresh, self._restarts_reported = total - self._restarts_reported, total
        return fresh

    async def run(self, command: Run) -> None:
        """Encodes a channel, unless a higher assignment of it was heard."""
        if not _is_sound(command):
            return
        key = Key(command.epoch, command.region)
        if not self._fences.admit(command.channel_id, key):
            _log.info("an older assignment is not obeyed", channel=command.channel_id, key=key)
            return
        job = Job(
            command.channel_id, key, command.source, command.profile, command.previous_device_id
        )
        running = self._encoders.get(command.channel_id)
        if running is not None and running.job == job:
            return
        if running is not None and running.job.same_picture(job):
            running.reassign(job)
            return
        if running is not None:
            await self._stop(command.channel_id)
        _log.info("encoding", channel=command.channel_id, epoch=key.epoch, region=key.region)
        self._encoders[command.channel_id] = Encoder(job, self._studio, self._changed)
        self._changed()

    async def fence(self, command: Fence) -> None:
        """Stops what runs below an assignment that names another device."""
        if not _is_sound(command):
            return
        key = Key(command.epoch, command.region)
        if not self._fences.admit(command.channel_id, key):
            return
        running = self._encoders.get(command.channel_id)
        if running is not None and running.job.key < key:
            _log.info("fenced", channel=command.channel_id, epoch=key.epoch, region=key.region)
            await self._stop(command.channel_id)
            self._changed()

    async def stop(self) -> None:
        """Stops all encoders."""
        await asyncio.gather(*(self._stop(channel) for channel in list(self._encoders)))

    async def _stop(self, channel_id: str) -> None:
        encoder = self._encoders[channel_id]
        await encoder.stop()
        # Known until it is gone, so that a device that ends meanwhile waits for it as well.
        if self._encoders.get(channel_id) is encoder:
            del self._encoders[channel_id]
            self._restarts_of_stopped += encoder.restarts


def _is_sound(command: Run | Fence) -> bool:
    sound = bool(_NAME.fullmatch(command.channel_id) and _NAME.fullmatch(command.region))
    if not sound:
        _log.error("not obeyed: a name is none", channel=command.channel_id, region=command.region)
    return sound
