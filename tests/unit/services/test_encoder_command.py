"""ffmpeg's arguments, its progress, and the agent's settings."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from isthmus.channels.v1.channel_pb2 import TEST_PATTERN_BARS, Profile, Source

from services.device_agent.command import SourceError, arguments, locate
from services.device_agent.config import ConfigError, Edge, read
from services.device_agent.progress import Progress, ProgressParser


def command(source: Source, root: Path, **profile: int) -> list[str]:
    return arguments("ffmpeg", source, Profile(**profile), root, root / "out%d", "7")


def after(arguments: list[str], flag: str) -> str:
    return arguments[arguments.index(flag) + 1]


def test_a_pattern_with_defaults(tmp_path: Path) -> None:
    found = command(Source(test_pattern=TEST_PATTERN_BARS), tmp_path)
    assert after(found, "-i") == "smptebars=size=320x180:rate=10"
    assert after(found, "-b:v") == "300k"
    assert found[-1] == f"{tmp_path}/out%d/7.m3u8"
    assert after(found, "-hls_segment_filename") == f"{tmp_path}/out%%d/7-%06d.ts"


def test_sides_are_even(tmp_path: Path) -> None:
    found = command(Source(test_pattern=TEST_PATTERN_BARS), tmp_path, width=641, height=1)
    assert after(found, "-i").startswith("smptebars=size=640x2:")


def test_a_file_stays_below_the_root(tmp_path: Path) -> None:
    root = tmp_path / "media"
    root.mkdir()
    (tmp_path / "secret.mp4").touch()
    (root / "clip.mp4").touch()
    (root / "way-out.mp4").symlink_to(tmp_path / "secret.mp4")
    assert locate("clip.mp4", root) == root / "clip.mp4"
    for file in ("way-out.mp4", "../secret.mp4", str(tmp_path / "secret.mp4"), "none.mp4", "."):
        with pytest.raises(SourceError):
            locate(file, root)
    found = command(Source(file="clip.mp4"), root)
    assert after(found, "-i") == f"file:{root}/clip.mp4"
    assert after(found, "-protocol_whitelist") == "file"


@pytest.mark.parametrize("scheme", ["https", "rtmps", "srt"])
def test_a_url_may_use_its_own_protocols_only(tmp_path: Path, scheme: str) -> None:
    found = command(Source(url=f"{scheme}://example.com/x -f"), tmp_path)
    protocols = after(found, "-protocol_whitelist").split(",")
    assert scheme in protocols and "file" not in protocols
    assert after(found, "-i") == f"{scheme}://example.com/x -f"
    formats = after(found, "-format_whitelist").split(",")
    assert "mpegts" in formats and "concat" not in formats
    assert ("hls" in formats) == (scheme == "https")


@pytest.mark.parametrize(
    "source", [Source(), Source(url="file:///etc/passwd"), Source(test_pattern=99)]
)
def test_other_sources_are_refused(tmp_path: Path, source: Source) -> None:
    with pytest.raises(SourceError):
        command(source, tmp_path)


def test_progress_blocks() -> None:
    parser = ProgressParser()
    lines = ["frame=12\n", "speed=1.02x\n", "out_time_us=1200000\n", "nonsense\n", "progress=end\n"]
    *none, last = [parser.feed(line) for line in lines]
    assert none == [None] * 4
    assert last == Progress(frames=12, speed=1.02, out_time_us=1_200_000, ended=True)
    # A block without values is one, too; nothing of the one before is left.
    assert parser.feed("speed=N/A") is None
    assert parser.feed("progress=continue") == Progress(0, 0.0, 0, False)


@given(st.lists(st.text()))
def test_progress_takes_whatever_comes(lines: list[str]) -> None:
    parser = ProgressParser()
    for line in [*lines, "frame=inf", "speed=-1x", "out_time_us=nan"]:
        parser.feed(line)
    found = parser.feed("progress=continue")
    assert found is not None
    assert (found.frames, found.speed, found.out_time_us) == (0, 0.0, 0)


ENVIRONMENT = {
    "ISTHMUS_DEVICE_ID": "encoder-1",
    "ISTHMUS_REGION": "eu",
    "ISTHMUS_STATE_DIR": "/s",
    "ISTHMUS_MEDIA_ROOT": "/m",
    "ISTHMUS_OUTPUT_DIR": "/o",
    "ISTHMUS_EDGES": "eu=127.0.0.1:1,us=127.0.0.1:2",
}


def test_settings_come_from_flags_before_the_environment() -> None:
    config = read(["--capacity", "3", "--region", "us"], ENVIRONMENT)
    assert (config.region, config.capacity, config.enrolment) == ("us", 3, None)
    assert config.edges == (Edge("eu", "127.0.0.1:1"), Edge("us", "127.0.0.1:2"))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"ISTHMUS_DEVICE_CAPACITY": "65"}, "--capacity"),
        ({"ISTHMUS_EDGES": "127.0.0.1:1"}, "region=host:port"),
        ({"ISTHMUS_EDGES": ","}, "names no edge"),
    ],
)
def test_wrong_settings_say_what_to_write(changed: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read([], ENVIRONMENT | changed)


def test_a_missing_setting_is_named() -> None:
    with pytest.raises(ConfigError, match="ISTHMUS_REGION"):
        read([], {k: v for k, v in ENVIRONMENT.items() if k != "ISTHMUS_REGION"})
