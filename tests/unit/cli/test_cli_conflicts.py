"""`isthmus conflicts` shows both values, where they come from, and who did not answer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from isthmus.channels.v1 import channel_pb2
from isthmus.replication.v1 import conflict_pb2

from mesh.cli import noted
from mesh.cli.exits import Exit
from mesh.cli.main import run

Channel = channel_pb2.Channel
TYPE = Channel.DESCRIPTOR.full_name
MESH = Path(__file__).resolve().parents[3] / "mesh.yaml"


def value(channel: Channel, region: str, second: int) -> conflict_pb2.ConflictValue:
    found = conflict_pb2.ConflictValue(value=channel.SerializeToString())
    found.origin.region = region
    found.time.FromSeconds(second)
    return found


def told(region: str, *views: conflict_pb2.ConflictView) -> conflict_pb2.ListConflictsResponse:
    return conflict_pb2.ListConflictsResponse(conflicts=views, group="channels", region=region)


TITLE = conflict_pb2.ConflictView(
    type=TYPE,
    key="news",
    generation=1,
    field="title",
    rule="LATEST",
    read=value(Channel(title="Late"), "us", 20),
    other=value(Channel(title="Early"), "eu", 10),
)
DELETED = conflict_pb2.ConflictView(
    type=TYPE,
    key="sport",
    rule="DELETE",
    read=value(Channel(), "us", 30),
    other=value(Channel(title="Lost", pinned=True), "eu", 29),
)
DELETED.other.redacted.append("source")
SECRET = conflict_pb2.ConflictView(
    type=TYPE,
    key="news",
    field="source",
    rule="LATEST",
    read=conflict_pb2.ConflictValue(redacted=["source"]),
    other=conflict_pb2.ConflictValue(redacted=["source"]),
)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[conflict_pb2.ListConflictsRequest]:
    """What the command asks; `eu` and `us` answer, `ap` does not."""
    found: list[conflict_pb2.ListConflictsRequest] = []

    async def ask_all(mesh: Path, pairs: list[tuple[str, str]], request: object) -> object:
        assert isinstance(request, conflict_pb2.ListConflictsRequest)
        found.append(request)
        answers = {"eu": told("eu", TITLE), "us": told("us", DELETED, TITLE, SECRET)}
        silent = [(*pair, "its region's edge does not answer") for pair in pairs]
        return (
            [answers[region] for region, _ in pairs if region in answers],
            [each for each in silent if each[0] not in answers],
        )

    monkeypatch.setattr(noted, "_ask_all", ask_all)
    return found


def test_each_is_shown_once_the_newest_first(
    asked: list[conflict_pb2.ListConflictsRequest], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["conflicts", "--mesh", str(MESH), "-w", "channels"]) == Exit.OK
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("Channel/sport")
    assert "DELETE" in lines[1] and "(empty)" in lines[1]
    assert '"title"="Lost", "pinned"=true, "source"="(redacted)"' in lines[1]
    assert lines[2].split()[:3] == ["Channel/news", "title", "LATEST"]
    assert lines[2].index("Late") < lines[2].index("us, ") < lines[2].index("Early")
    assert lines[2].endswith("eu, us")
    assert lines[3].count("(redacted)") == 2
    assert lines[4].startswith("ap/channels: its region's edge does not answer")
    assert asked == [conflict_pb2.ListConflictsRequest()]


def test_programs_get_values_alone(
    asked: list[conflict_pb2.ListConflictsRequest], capsys: pytest.CaptureFixture[str]
) -> None:
    entity = ("--entity", "Channel/news")
    assert run(["conflicts", "--mesh", str(MESH), "-r", "eu", *entity, "--json"]) == Exit.OK
    shown = json.loads(capsys.readouterr().out)
    (conflict,) = shown["conflicts"]
    assert conflict["values"] == ["Late", "Early"] and conflict["noted_by"] == ["eu"]
    assert conflict["conflict"]["rule"] == "LATEST"
    assert asked == [conflict_pb2.ListConflictsRequest(type=TYPE, key="news")]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("-e", "Chanel"), "'Chanel' is no entity; there are isthmus.channels.v1.Channel"),
        (("-w", "overview"), "'overview' owns no group; those that do are "),
    ],
)
def test_what_there_is_not_is_said(
    given: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["conflicts", "--mesh", str(MESH), *given]) == Exit.NOT_FOUND
    assert message in capsys.readouterr().err


def test_entities_are_read_by_a_process_that_knew_none() -> None:
    code = (
        f"from mesh.cli.noted import message_of; print(message_of({TYPE!r}, b'').DESCRIPTOR.name)"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=MESH.parent, capture_output=True, text=True, check=False
    )
    assert shown.stdout == "Channel\n", shown.stderr


def test_nobody_answers(
    asked: list[conflict_pb2.ListConflictsRequest], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["conflicts", "--mesh", str(MESH), "-r", "ap"]) == Exit.UNREACHABLE
    assert "does not answer" in capsys.readouterr().err
