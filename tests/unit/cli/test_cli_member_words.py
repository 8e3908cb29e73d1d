"""What `isthmus members` says of what it was told."""

from __future__ import annotations

from pathlib import Path

import pytest
from isthmus.replication.v1 import member_pb2, members_pb2

from mesh.cli.exits import Exit
from mesh.cli.main import run
from mesh.cli.memberships import remarks
from mesh.cli.restoring import _report

JOINED = member_pb2.MEMBER_STATE_JOINED


def status(region: str, *members: members_pb2.MemberStatus) -> members_pb2.MembersStatus:
    return members_pb2.MembersStatus(group="channels", region=region, home="eu", members=members)


def one(region: str, state: int = JOINED, epoch: int = 0, **rest) -> members_pb2.MemberStatus:
    member = member_pb2.Member(region=region, state=state, epoch=epoch)
    return members_pb2.MemberStatus(member=member, **rest)


def life(incarnation: int, sequence: int, recovered: int = 0, current: bool = False):
    return members_pb2.Life(
        incarnation=incarnation, sequence=sequence, recovered=recovered, current=current
    )


def test_who_is_out_marked_or_early_is_told_once() -> None:
    evicted = one("ap", member_pb2.MEMBER_STATE_EVICTED, 1)
    marked = one("us", marks=[members_pb2.MEMBER_MARK_SILENT])
    early = one("us")
    early.early.FromSeconds(600)
    lines = remarks([status("eu", evicted, marked), status("ap", evicted), status("eu", early)])
    assert len(lines) == 3
    assert lines[0].startswith("channels: ap is EVICTED")
    assert "us is marked for silence" in lines[1] and "isthmus members evict us" in lines[1]
    assert "changes of us come from 10 min" in lines[2] and "set the clock of us" in lines[2]


def test_a_region_that_does_not_run_yet_is_told_what_it_will_get() -> None:
    peers = [{"channels": status("eu", one("us", lives=[life(1, 5), life(2, 7)]))}]
    report = _report("us", "channels", None, peers)
    assert (report.running, report.missing, report.whole) == (False, 12, False)
    assert "hold 12 changes of 2 of its lives" in report.sentence
    assert "takes a new incarnation" in report.sentence


def test_what_came_back_and_what_is_missing_is_counted() -> None:
    peers = [
        {"channels": status("eu", one("us", lives=[life(1, 5), life(2, 7)]))},
        {"channels": status("ap", one("us", lives=[life(1, 9)]))},
        {},
    ]
    start = members_pb2.LIFE_START_RESTORED_BACKUP
    lives = [life(1, 9, recovered=3), life(2, 6), life(3, 1, current=True)]
    own = status("us", one("us", lives=lives, start=start))
    report = _report("us", "channels", own, peers)
    assert (report.fetched, report.missing, report.whole) == (12, 1, False)
    assert "its peers knew more of it than its store" in report.sentence

    lives[1].sequence = 7
    own = status("us", one("us", lives=lives, start=start))
    assert _report("us", "channels", own, peers).whole


def test_an_evicted_region_is_told_how_it_comes_back() -> None:
    peers = [{"channels": status("eu", one("us", member_pb2.MEMBER_STATE_EVICTED, 1))}]
    own = status("us", one("us", start=members_pb2.LIFE_START_CONTINUED))
    report = _report("us", "channels", own, peers)
    assert report.state == "EVICTED" and not report.whole
    assert "isthmus members rejoin us" in report.sentence


def test_a_store_is_set_aside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mesh = tmp_path / "mesh.yaml"
    mesh.write_text((Path(__file__).resolve().parents[3] / "mesh.yaml").read_text())
    command = ("members", "restore", "eu", "--set-aside", "channels", "--mesh", str(mesh))
    assert run(command) == Exit.NOT_FOUND
    assert "holds no store of channels" in capsys.readouterr().err
    data = tmp_path / ".isthmus" / "eu" / "channels" / "data"
    data.mkdir(parents=True)
    for suffix in ("", "-wal", "-shm"):
        (data / f"channels.sqlite3{suffix}").write_text(suffix)
    assert run(command) == Exit.OK
    aside = data / "channels.set-aside-1"
    assert str(aside) in capsys.readouterr().out
    assert sorted(each.name for each in aside.iterdir()) == [
        "channels.sqlite3",
        "channels.sqlite3-shm",
        "channels.sqlite3-wal",
    ]
    assert not list(data.glob("*.sqlite3*"))
    assert run(("members", "restore", "eu", "--set-aside", "none", "--mesh", str(mesh))) == (
        Exit.NOT_FOUND
    )
