"""What operators, devices and gateways may send, and what none of them can bring about."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from isthmus.channels.v1.channel_pb2 import TEST_PATTERN_BARS, Profile, Source
from isthmus.channels.v1.channels_pb2 import CreateChannelRequest
from isthmus.devices.v1.device_pb2 import DeviceLocation, Encoding, Encodings
from isthmus.devices.v1.gateway_pb2 import ConnectRequest, Fence, Hello, Report, Run

from mesh.runtime.logs import redacted
from mesh.runtime.values import Validation
from services.device_agent.agent import Agent
from services.device_agent.encoder import Encoder, Job, Studio
from services.device_agent.fences import Fences, Key
from tests.unit.services.kit import until

VALIDATION = Validation()


@pytest.mark.parametrize("file", ["a\0b", "a\nb", "\x1b[2J", "-i", "/etc/passwd", "a/../b", "a//b"])
def test_a_file_is_plain_components(file: str) -> None:
    assert VALIDATION.violations(Source(file=file))


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "concat:https://a|file:b",
        "http://a/b",
        "https://a/b -f",
        "https://a/\0",
        "HTTPS://a/",
        "-i",
        "subfile,,start,0,end,9,,:/etc/passwd",
    ],
)
def test_a_url_is_of_three_schemes(url: str) -> None:
    assert VALIDATION.violations(Source(url=url))


def test_a_stream_key_is_in_no_log() -> None:
    request = CreateChannelRequest(channel_id="news", source=Source(url="srt://h:9?streamid=key"))
    assert "key" not in str(redacted(request))


@pytest.mark.parametrize(
    "encodings",
    [
        [Encoding(channel_id="c" * 64)],
        [Encoding(region="r" * 33)],
        [Encoding(error="e" * 513)],
        [Encoding(speed=math.nan)],
        [Encoding(gap_seconds=math.inf)],
        [Encoding(epoch=2**64 - 1)],
        [Encoding()] * 129,
    ],
)
def test_what_a_device_reports_is_bounded(encodings: list[Encoding]) -> None:
    """It is stored in every region."""
    told = Encodings(encodings=encodings)
    hello = Hello(device_id="a", region="eu", capacity=1, encodings=told)
    assert VALIDATION.violations(ConnectRequest(report=Report(encodings=told)))
    assert VALIDATION.violations(ConnectRequest(hello=hello))


def test_where_a_device_stands_is_bounded() -> None:
    hello = Hello(device_id="a", region="eu", capacity=1, location=DeviceLocation(site="s" * 129))
    assert list(VALIDATION.violations(ConnectRequest(hello=hello))) == ["hello.location.site"]
    restarts = Report(encoder_restarts=2**32 - 1)
    assert VALIDATION.violations(ConnectRequest(report=restarts))


def studio(folder: Path) -> Studio:
    return Studio("encoder-1", "false", folder, folder / "out")


async def test_a_name_that_the_system_refuses_fails_like_any_source(tmp_path: Path) -> None:
    """The task would else be dead while the device says that the channel starts."""
    job = Job("news", Key(1, "eu"), Source(file="a\0b"), Profile())
    encoder = Encoder(job, studio(tmp_path), lambda: None)
    try:
        await until(lambda: "names no file" in encoder.encoding.error)
    finally:
        await encoder.stop()


@pytest.mark.parametrize(
    ("channel_id", "region"), [("../escape", "eu"), ("..", "eu"), ("news", "../../eu"), ("", "eu")]
)
async def test_no_gateway_leads_a_device_out_of_its_folder(
    tmp_path: Path, channel_id: str, region: str
) -> None:
    agent = Agent(studio(tmp_path), Fences(tmp_path / "fences.json"), lambda: None)
    source = Source(test_pattern=TEST_PATTERN_BARS)
    await agent.run(Run(channel_id=channel_id, epoch=1, region=region, source=source))
    await agent.fence(Fence(channel_id=channel_id, epoch=2, region=region))
    assert not agent.encodings().encodings
    await agent.stop()
    assert not list(tmp_path.iterdir())
