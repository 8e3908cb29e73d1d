"""Following a log that others write, put aside and overfill."""

from __future__ import annotations

from pathlib import Path

from mesh.agent.tail import LogTail


def test_whole_lines_from_now_on(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"old\n")
    tail = LogTail(log, 1000)
    assert tail.read() == []
    with log.open("ab") as file:
        file.write(b"one\ntw")
        file.flush()
        assert tail.read() == [b"one"]
        file.write(b"o\n")
    assert tail.read() == [b"two"]


def test_a_new_page(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"a long line of the old page\n")
    tail = LogTail(log, 1000)
    log.replace(tmp_path / "log.1")
    assert tail.read() == []
    log.write_bytes(b"new\n")
    assert tail.read() == [b"new"]


def test_what_is_too_much_is_counted(tmp_path: Path) -> None:
    log = tmp_path / "log"
    tail = LogTail(log, 100)
    log.write_bytes(b"".join(b"%09d\n" % at for at in range(1000)))
    found = tail.read()
    assert found == [b"%09d" % at for at in range(990, 1000)]
    assert tail.skipped == 990
    assert tail.read() == []
