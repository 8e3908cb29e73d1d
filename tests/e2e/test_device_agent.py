"""The device agent as a real process, with a real ffmpeg."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import imageio_ffmpeg
import pytest
from isthmus.channels.v1.channel_pb2 import TEST_PATTERN_BARS, TEST_PATTERN_CLOCK, Source
from isthmus.devices.v1.device_pb2 import (
    ENCODING_STATE_FENCED,
    ENCODING_STATE_ON_AIR,
    Encoding,
)
from isthmus.devices.v1.gateway_pb2 import Fence, Run

from tests.support.agents import AgentProcess as Device
from tests.support.agents import until
from tests.support.gateway import FakeGateway, TestAuthority

pytestmark = pytest.mark.e2e

BARS = Source(test_pattern=TEST_PATTERN_BARS)


@pytest.fixture
def authority() -> TestAuthority:
    return TestAuthority()


@pytest.fixture
async def gateway(authority: TestAuthority) -> AsyncIterator[FakeGateway]:
    made = FakeGateway(authority)
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def device(
    gateway: FakeGateway, authority: TestAuthority, tmp_path: Path
) -> AsyncIterator[Device]:
    made = Device("encoder-1", tmp_path, authority, f"eu={gateway.address}")
    await made.start()
    yield made
    await made.stop()
    assert made.encoders() == []


def run(epoch: int, source: Source = BARS, region: str = "eu", previous: str = "") -> Run:
    return Run(
        channel_id="news",
        epoch=epoch,
        region=region,
        source=source,
        previous_device_id=previous,
    )


def on_air(gateway: FakeGateway, epoch: int) -> Callable[[], bool]:
    def check() -> bool:
        encoding = gateway.encodings.get("news", Encoding())
        return encoding.state == ENCODING_STATE_ON_AIR and encoding.epoch == epoch

    return check


async def test_encodes_and_obeys(gateway: FakeGateway, device: Device) -> None:
    gateway.send(run(5))
    await until(on_air(gateway, 5))
    assert len(device.encoders()) == 1

    # It advances, and decodes.
    await until(lambda: len(device.live().segments) >= 3)
    await _decode(device.output / "news" / "live.m3u8")

    # A newer assignment of the same picture does not interrupt it.
    (encoder,) = device.encoders()
    gateway.send(run(6))
    await until(on_air(gateway, 6))
    assert device.encoders() == [encoder]

    # An older one is not obeyed, neither to run nor to stop.
    gateway.send(run(5, Source(test_pattern=TEST_PATTERN_CLOCK)), Fence(channel_id="news", epoch=5))
    # Another picture is another encoder.
    gateway.send(run(7, Source(test_pattern=TEST_PATTERN_CLOCK)))
    await until(lambda: device.encoders() not in ([], [encoder]))
    await until(on_air(gateway, 7))
    assert any(segment.discontinuity for segment in device.live().segments)

    gateway.send(Fence(channel_id="news", epoch=8, region="us"))
    assert await until(lambda: not device.encoders(), 2) < 1
    await until(lambda: not gateway.encodings)


async def test_restarts_an_encoder_that_dies_or_stalls(
    gateway: FakeGateway, device: Device
) -> None:
    gateway.send(run(1))
    await until(on_air(gateway, 1))
    (first,) = device.encoders()
    os.kill(first, signal.SIGKILL)
    await until(lambda: gateway.restarts == 1)
    await until(on_air(gateway, 1))
    (second,) = device.encoders()
    assert second != first

    os.kill(second, signal.SIGSTOP)
    await until(lambda: gateway.restarts == 2)
    await until(on_air(gateway, 1))
    assert device.encoders() != [second]
    assert sum(segment.discontinuity for segment in device.live().segments) == 2


async def test_keeps_encoding_without_its_gateway_and_comes_back(
    gateway: FakeGateway, device: Device
) -> None:
    gateway.send(run(1))
    await until(on_air(gateway, 1))
    (encoder,) = device.encoders()
    await gateway.stop()
    last = device.live().segments[-1]
    await until(lambda: device.live().segments[-1].start_ms >= last.start_ms + 3000)
    assert device.encoders() == [encoder]

    await gateway.start(gateway.port)
    await until(lambda: len(gateway.hellos) == 2)
    assert [e.channel_id for e in gateway.hellos[1].encodings.encodings] == ["news"]


async def test_goes_to_another_edge_and_returns(
    authority: TestAuthority, gateway: FakeGateway, tmp_path: Path
) -> None:
    other = FakeGateway(authority)
    await other.start()
    device = Device("encoder-2", tmp_path, authority, f"eu={gateway.address},us={other.address}")
    await device.start()
    try:
        await until(lambda: gateway.hellos)
        port = gateway.port
        await gateway.stop()
        assert await until(lambda: other.hellos) < 5
        await gateway.start(port)
        await until(lambda: len(gateway.hellos) == 2, 30)
        # A gateway that says nothing is as good as none.
        gateway.silent = True
        await until(lambda: len(gateway.hellos) + len(other.hellos) > 3)
    finally:
        await device.stop()
        await other.stop()


async def test_no_encoder_outlives_its_agent(gateway: FakeGateway, device: Device) -> None:
    gateway.send(run(1))
    await until(on_air(gateway, 1))
    assert device.process is not None
    device.process.kill()
    assert await until(lambda: not device.encoders(), 3) < 1
    await device.process.wait()

    # Its memory outlives it: what it obeyed before is still the least that it obeys.
    await device.start()
    await until(lambda: len(gateway.hellos) == 2)
    gateway.send(run(0, region="us"), run(2))
    await until(on_air(gateway, 2))


async def test_a_takeover_is_a_measured_discontinuity_and_the_loser_is_fenced(
    authority: TestAuthority, gateway: FakeGateway, device: Device, tmp_path: Path
) -> None:
    other = FakeGateway(authority)
    await other.start()
    successor = Device("encoder-3", tmp_path, authority, f"us={other.address}")
    await successor.start()
    try:
        gateway.send(run(1))
        await until(on_air(gateway, 1))
        # Both encode, as in a partition: only the higher assignment is published.
        other.send(run(2, region="us", previous="encoder-1"))
        await until(on_air(other, 2))
        await until(lambda: gateway.encodings["news"].state == ENCODING_STATE_FENCED)
        assert device.encoders() and successor.encoders()
        assert 0 <= other.encodings["news"].gap_seconds < 5
        assert not gateway.encodings["news"].HasField("gap_seconds")
        live = device.live()
        takeover = [s.discontinuity for s in live.segments].index(True)
        assert all("-encoder-3/" in s.uri for s in live.segments[takeover:])
        assert all("-encoder-1/" in s.uri for s in live.segments[:takeover])
        await _decode(device.output / "news" / "live.m3u8")
    finally:
        await successor.stop()
        await other.stop()


async def test_a_bad_source_is_reported(gateway: FakeGateway, device: Device) -> None:
    gateway.send(run(1, Source(file="nowhere.mp4")))
    await until(lambda: "nowhere.mp4" in gateway.encodings.get("news", Encoding()).error)


async def test_a_file_is_looped(gateway: FakeGateway, device: Device, tmp_path: Path) -> None:
    (tmp_path / "media").mkdir()
    await _ffmpeg(
        *("-f", "lavfi", "-i", "testsrc=size=160x90:rate=10:duration=1"),
        *("-f", "lavfi", "-i", "sine=duration=1", str(tmp_path / "media" / "a%b.mp4")),
    )
    gateway.send(run(1, Source(file="a%b.mp4")))
    await until(on_air(gateway, 1))
    await until(lambda: len(device.live().segments) >= 3)


async def _decode(playlist: Path) -> None:
    """Fails unless the whole playlist decodes."""
    copy = playlist.with_name("decoded.m3u8")
    copy.write_text(playlist.read_text() + "#EXT-X-ENDLIST\n")
    await _ffmpeg("-xerror", "-i", str(copy), "-f", "null", "-")


async def _ffmpeg(*arguments: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *(imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-nostdin", *arguments),
        stderr=asyncio.subprocess.PIPE,
    )
    _, error = await process.communicate()
    assert process.returncode == 0, error.decode()
