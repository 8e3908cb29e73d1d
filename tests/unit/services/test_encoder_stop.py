"""An encoder that is being stopped by somebody who is stopped in turn."""

from __future__ import annotations

import asyncio
from pathlib import Path

import imageio_ffmpeg
import pytest
from isthmus.channels.v1.channel_pb2 import TEST_PATTERN_BARS, Profile, Source

from services.device_agent.encoder import Encoder, Job, Studio
from services.device_agent.fences import Key


async def test_a_cancelled_stop_ends_and_the_encoder_too(tmp_path: Path) -> None:
    """A session that ends while it obeys a fence must end: else the device never stops."""
    job = Job("news", Key(1, "eu"), Source(test_pattern=TEST_PATTERN_BARS), Profile())
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    encoder = Encoder(job, Studio("encoder-1", ffmpeg, tmp_path, tmp_path), lambda: None)
    async with asyncio.timeout(20):
        while not list(tmp_path.glob("news/*/*")):
            await asyncio.sleep(0.02)
    stopping = asyncio.create_task(encoder.stop())
    await asyncio.sleep(0)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    await encoder.stop()
