"""Child processes: kept running, stopped in time, and never outliving who started them."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mesh.local.child import Child, Command, Death, tail, tied
from mesh.local.instance import describe

SLEEP = (sys.executable, "-c", "import time; print('ready', flush=True); time.sleep(600)")
STUBBORN = (
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "print('ready', flush=True); time.sleep(600)",
)


def command(tmp_path: Path, argv: tuple[str, ...]) -> Command:
    return Command("eu/thing", argv, tmp_path / "logs" / "thing.log", {"THING": "1"})


async def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


async def test_a_killed_child_is_started_again(tmp_path: Path) -> None:
    deaths: list[Death] = []
    restarted: list[int | None] = []
    child = Child(command(tmp_path, SLEEP), deaths.append, lambda: restarted.append(child.pid))
    await child.start()
    first = child.pid
    assert first is not None
    await until(lambda: tail(child.command.log) == ("ready",))
    assert child.crash() == first
    await until(lambda: restarted)
    assert restarted == [child.pid]
    assert child.pid not in (None, first)
    assert [death.cause for death in deaths] == ["SIGKILL"]
    assert deaths[0].tail == ("ready",)
    second = child.pid
    assert second is not None
    assert await child.stop(5.0)
    assert child.pid is None
    assert not alive(first) and not alive(second)


async def test_deaths_in_a_row_are_counted_with_their_last_words(tmp_path: Path) -> None:
    deaths: list[Death] = []
    argv = (sys.executable, "-c", "print('no disk'); raise SystemExit(7)")
    child = Child(command(tmp_path, argv), deaths.append)
    await child.start()
    await until(lambda: len(deaths) == 3)
    await child.stop(1.0)
    assert [death.deaths for death in deaths] == [1, 2, 3]
    assert deaths[-1].cause == "exit code 7"
    assert deaths[-1].tail[-1] == "no disk"
    count = len(deaths)
    await asyncio.sleep(0.5)  # longer than the backoff: nothing is started after a stop
    assert len(deaths) == count


async def test_a_stubborn_child_is_killed_after_its_grace(tmp_path: Path) -> None:
    child = Child(command(tmp_path, STUBBORN))
    await child.start()
    await until(lambda: tail(child.command.log) == ("ready",))
    pid = child.pid
    assert pid is not None
    assert not await child.stop(0.2)
    assert not alive(pid)


async def test_kill_keeps_it_down(tmp_path: Path) -> None:
    deaths: list[Death] = []
    child = Child(command(tmp_path, SLEEP), deaths.append)
    await child.start()
    await child.kill()
    assert child.pid is None and not child.wanted and not deaths
    await child.start()
    assert child.pid is not None
    await child.kill()


async def test_a_command_that_is_not_there_dies_at_once(tmp_path: Path) -> None:
    deaths: list[Death] = []
    child = Child(command(tmp_path, ("/nonexistent/program",)), deaths.append)
    await child.start()
    await until(lambda: deaths)
    await child.stop(1.0)
    assert "/nonexistent/program" in "\n".join(deaths[0].tail)


def test_nothing_outlives_a_killed_starter(tmp_path: Path) -> None:
    """The starter gets SIGKILL, as a supervisor may: the kernel takes its children along."""
    pids = tmp_path / "pids"
    script = (
        "import subprocess, sys, time\n"
        "from pathlib import Path\n"
        "from mesh.local.child import tied\n"
        "child = subprocess.Popen(tied(('sleep', '600')))\n"
        f"Path({str(pids)!r}).write_text(str(child.pid))\n"
        "time.sleep(600)\n"
    )
    starter = subprocess.Popen([sys.executable, "-c", script])
    try:
        deadline = time.monotonic() + 20
        while not (pids.exists() and pids.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        child = int(pids.read_text())
        command_line = Path(f"/proc/{child}/cmdline")
        while not command_line.read_bytes().startswith(b"sleep"):  # setpriv has made the tie
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        starter.send_signal(signal.SIGKILL)
        starter.wait()
    while alive(child):
        assert time.monotonic() < deadline
        time.sleep(0.01)


async def test_the_environment_reaches_it(tmp_path: Path) -> None:
    argv = (sys.executable, "-c", "import os; print(os.environ['THING'], os.getpgrp())")
    child = Child(command(tmp_path, argv))
    await child.start()
    await until(lambda: len(" ".join(tail(child.command.log)).split()) == 2)
    await child.stop(1.0)
    said = " ".join(tail(child.command.log)).split()
    assert said[0] == "1"
    assert int(said[1]) != os.getpgrp()  # Ctrl-C at the terminal is not for children


def test_tail_of_nothing(tmp_path: Path) -> None:
    assert tail(tmp_path / "none.log") == ()


@pytest.mark.parametrize("code, cause", [(3, "exit code 3"), (-15, "SIGTERM"), (-99, "signal 99")])
def test_a_death_names_its_cause(code: int, cause: str) -> None:
    assert Death("x", 1, code, 1, (), Path("x.log")).cause == cause


def test_tied_uses_setpriv() -> None:
    assert tied(("sleep", "1"))[1:] == ("--pdeathsig", "KILL", "--", "sleep", "1")


@pytest.mark.parametrize(
    ("code", "said", "says"),
    [
        (-9, ('{"event": "call"}',), "ended with SIGKILL; starting it again (its log: x.log)"),
        (-9, ("text",), "ended with SIGKILL; starting it again (its log: x.log)"),
        (1, ('{"event": "call"}',), "ended with exit code 1; starting it again (its log: x.log)"),
        (1, (), "ended with exit code 1; starting it again (its log: x.log)"),
        (
            1,
            ("Traceback", "ValueError: no"),
            "ended with exit code 1: ValueError: no; starting it again (its log: x.log)",
        ),
    ],
)
def test_a_death_is_one_sentence_with_the_way_to_the_log(
    code: int, said: tuple[str, ...], says: str
) -> None:
    assert describe(Death("eu/thing", 7, code, 1, said, Path("x.log"))) == says
