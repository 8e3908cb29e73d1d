"""The live playlist on disk: its fence, its gap, and what readers see meanwhile."""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

import pytest

from services.device_agent import publisher as module
from services.device_agent.fences import Fences, Key
from services.device_agent.playlist import Segment, parse
from services.device_agent.publisher import LockBusy, Published, Publisher, Refused

START = 1_700_000_000_000


def segments(run: str, first: int, count: int, at: int = START) -> list[Segment]:
    return [
        Segment(f"{run}-{index:06d}.ts", 1000, at + 1000 * index)
        for index in range(first, first + count)
    ]


def test_a_takeover_is_a_discontinuity_with_its_gap(tmp_path: Path) -> None:
    one = Publisher(tmp_path, "1-eu-a", "a")
    two = Publisher(tmp_path, "2-us-b", "b")
    assert one.publish(Key(1, "eu"), segments("r", 0, 3)) == Published(None)
    assert two.publish(Key(2, "us"), segments("s", 0, 1, START + 5500)) == Published(2500)
    assert two.publish(Key(2, "us"), segments("s", 1, 1, START + 5500)) == Published(None)
    live = parse((tmp_path / "live.m3u8").read_text())
    assert [(s.uri, s.discontinuity) for s in live.segments][-2:] == [
        ("2-us-b/s-000000.ts", True),
        ("2-us-b/s-000001.ts", False),
    ]


def test_a_loser_is_refused_for_ever(tmp_path: Path) -> None:
    loser = Publisher(tmp_path, "1-eu-a", "a")
    winner = Publisher(tmp_path, "1-us-b", "b")
    loser.publish(Key(1, "eu"), segments("r", 0, 1))
    winner.publish(Key(1, "us"), segments("s", 0, 1))
    before = (tmp_path / "live.m3u8").read_bytes()
    assert loser.publish(Key(1, "eu"), segments("r", 1, 1)) == Refused(Key(1, "us"))
    assert (tmp_path / "live.m3u8").read_bytes() == before


def test_overlapping_pictures_are_no_gap(tmp_path: Path) -> None:
    Publisher(tmp_path, "1-eu-a", "a").publish(Key(1, "eu"), segments("r", 0, 3))
    assert Publisher(tmp_path, "2-eu-b", "b").publish(
        Key(2, "eu"), segments("s", 0, 1, START + 1000)
    ) == Published(0)


def test_a_restart_on_the_same_device_is_no_takeover(tmp_path: Path) -> None:
    publisher = Publisher(tmp_path, "1-eu-a", "a")
    publisher.publish(Key(1, "eu"), segments("r", 0, 1))
    assert publisher.publish(Key(1, "eu"), segments("s", 0, 1, START + 9000)) == Published(None)
    assert parse((tmp_path / "live.m3u8").read_text()).segments[-1].discontinuity


def test_what_is_published_twice_is_listed_once(tmp_path: Path) -> None:
    publisher = Publisher(tmp_path, "1-eu-a", "a")
    publisher.publish(Key(1, "eu"), segments("r", 0, 2))
    publisher.publish(Key(1, "eu"), segments("r", 0, 3))
    assert len(parse((tmp_path / "live.m3u8").read_text()).segments) == 3


def test_old_encodings_are_removed_once_nobody_reads_them(tmp_path: Path) -> None:
    for name in ("1-eu-a", "2-eu-b"):
        (tmp_path / name).mkdir()
    old, young = tmp_path / "1-eu-a", tmp_path / "2-eu-b"
    os.utime(old, (0, 0))
    Publisher(tmp_path, "3-eu-c", "c").publish(Key(3, "eu"), segments("r", 0, 1))
    assert old.exists()
    Publisher(tmp_path, "4-eu-d", "d").publish(Key(4, "eu"), segments("s", 0, 1))
    assert not old.exists() and young.exists()


def test_a_lock_that_is_never_given_back_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LOCK_TRIES", 2)
    publisher = Publisher(tmp_path, "1-eu-a", "a")
    publisher.publish(Key(1, "eu"), segments("r", 0, 1))
    with (tmp_path / "live.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(LockBusy, match=r"live\.lock"):
            publisher.publish(Key(1, "eu"), segments("r", 1, 1))


@pytest.mark.parametrize("hangs_at", ["live-1-eu-a.m3u8", "live.json", "live.m3u8"])
def test_a_device_that_hangs_with_the_lock_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hangs_at: str
) -> None:
    """Whatever it was about to put in place when it hung, and does when it goes on."""
    monkeypatch.setattr(module, "_LOCK_TRIES", 2)
    one, two = Publisher(tmp_path, "1-eu-a", "a"), Publisher(tmp_path, "2-us-b", "b")
    Publisher(tmp_path, "0-eu-z", "z").publish(Key(0, "eu"), segments("q", 0, 1))
    hangs, goes_on = threading.Event(), threading.Event()
    replace = Path.replace

    def hanging(self: Path, target: Path) -> Path:
        if self.name == f".{hangs_at}.a.new" and not goes_on.is_set():
            hangs.set()
            assert goes_on.wait(10)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", hanging)
    first = threading.Thread(target=one.publish, args=(Key(1, "eu"), segments("r", 0, 3)))
    first.start()
    assert hangs.wait(10)
    assert isinstance(two.publish(Key(2, "us"), segments("s", 0, 1)), Published)
    goes_on.set()
    first.join()
    two.publish(Key(2, "us"), segments("s", 1, 1))
    shown = parse((tmp_path / "live.m3u8").read_text()).segments
    assert [s.uri for s in shown][-2:] == ["2-us-b/s-000000.ts", "2-us-b/s-000001.ts"]
    assert not any("1-eu-a" in segment.uri for segment in shown)
    assert one.publish(Key(1, "eu"), segments("r", 3, 1)) == Refused(Key(2, "us"))


def test_playlists_of_the_past_are_removed(tmp_path: Path) -> None:
    Publisher(tmp_path, "1-eu-a", "a").publish(Key(1, "eu"), segments("r", 0, 1))
    os.utime(tmp_path / "live-1-eu-a.m3u8", (0, 0))
    Publisher(tmp_path, "2-eu-b", "b").publish(Key(2, "eu"), segments("s", 0, 1))
    assert [path.name for path in tmp_path.glob("live-*")] == ["live-2-eu-b.m3u8"]


def test_readers_always_see_a_valid_playlist(tmp_path: Path) -> None:
    """Two publishers at once, and a reader without a lock."""
    Publisher(tmp_path, "0-eu-z", "z").publish(Key(0, "eu"), segments("q", 0, 1))
    done = threading.Event()
    problems: list[Exception] = []
    seen: list[int] = []

    def read() -> None:
        while not done.is_set():
            try:
                seen.append(parse((tmp_path / "live.m3u8").read_text()).sequence)
            except Exception as error:
                problems.append(error)

    def write(name: str, key: Key) -> None:
        publisher = Publisher(tmp_path, f"{key.epoch}-{key.region}-{name}", name)
        for index in range(60):
            publisher.publish(key, segments(name, index, 1))

    reader = threading.Thread(target=read)
    writers = [
        threading.Thread(target=write, args=("a", Key(1, "eu"))),
        threading.Thread(target=write, args=("b", Key(2, "us"))),
    ]
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    reader.join()
    assert not problems
    assert seen == sorted(seen)
    last = parse((tmp_path / "live.m3u8").read_text())
    assert all("-us-b/" in segment.uri for segment in last.segments)


def test_fences_survive_and_never_fall(tmp_path: Path) -> None:
    path = tmp_path / "fences.json"
    fences = Fences(path)
    assert fences.admit("news", Key(5, "eu"))
    assert fences.admit("news", Key(5, "us"))
    again = Fences(path)
    assert again.highest("news") == Key(5, "us")
    assert not again.admit("news", Key(5, "eu"))
    assert again.admit("news", Key(5, "us"))
    assert again.admit("sport", Key(1, "eu"))


def test_a_damaged_memory_is_named(tmp_path: Path) -> None:
    path = tmp_path / "fences.json"
    path.write_text("{")
    with pytest.raises(ValueError, match=r"fences\.json is damaged"):
        Fences(path)
