"""`isthmus up` and `down`: what starts is kept, what stops leaves nothing."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mesh.cli.exits import Exit
from mesh.local.layout import Layout
from mesh.local.record import Record, read
from mesh.topology import load

pytestmark = pytest.mark.e2e


def isthmus(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mesh.cli", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def until(condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def layout_of(folder: Path) -> Layout:
    return Layout.of(load(folder / "mesh.yaml"))


def record_of(folder: Path) -> Record:
    record = read(layout_of(folder).record)
    assert record is not None
    return record


def up(folder: Path) -> Record:
    """Starts it in the background; returns what runs."""
    done = isthmus(folder, "up", "--detach", "--json")
    assert done.returncode == Exit.OK, done.stderr
    record = record_of(folder)
    assert json.loads(done.stdout)["pid"] == record.pid
    return record


def pids(record: Record) -> list[int]:
    found = [process.pid for process in record.processes if process.pid is not None]
    assert len(found) == len(record.processes)
    return [record.pid, *found]


def test_up_status_down(mesh_folder: Path) -> None:
    record = up(mesh_folder)
    assert [process.name for process in record.processes] == [
        "eu/authority",
        "eu/authority/sidecar",
        "eu/edge",
    ]
    status = isthmus(mesh_folder, "status", "--json")
    assert status.returncode == Exit.OK, status.stderr
    [workload] = json.loads(status.stdout)["workloads"]
    assert workload["healthy"]
    assert workload["status"]["owner"] == "platform"
    assert workload["status"]["certificate"]["spiffe_id"].endswith("/region/eu/workload/authority")

    down = isthmus(mesh_folder, "down")
    assert (down.returncode, down.stdout) == (Exit.OK, "Everything is stopped.\n")
    assert not any(alive(pid) for pid in pids(record))
    assert not layout_of(mesh_folder).run.exists()
    assert not layout_of(mesh_folder).record.exists()
    again = isthmus(mesh_folder, "down")
    assert (again.returncode, again.stdout) == (Exit.OK, "Nothing was running.\n")
    gone = isthmus(mesh_folder, "status")
    assert gone.returncode == Exit.UNREACHABLE
    assert gone.stderr == "isthmus: this mesh is not up: start it with `isthmus up`\n"


def test_up_twice_names_the_first(mesh_folder: Path) -> None:
    record = up(mesh_folder)
    second = isthmus(mesh_folder, "up")
    assert second.returncode == Exit.CONFLICT
    assert second.stderr == (
        f"isthmus: this mesh is up already (pid {record.pid}): see it with `isthmus status`, stop "
        "it with `isthmus down`\n"
    )
    assert isthmus(mesh_folder, "up", "--detach").returncode == Exit.CONFLICT
    assert all(alive(pid) for pid in pids(record))


def test_a_taken_port_is_named(mesh_folder: Path) -> None:
    port = load(mesh_folder / "mesh.yaml").edge("eu").port
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        for arguments in (("up",), ("up", "--detach")):
            refused = isthmus(mesh_folder, *arguments)
            assert refused.returncode == Exit.NOT_READY
            assert refused.stderr.count("\n") == 1
            assert f"127.0.0.1:{port} (the edge of eu) is taken by" in refused.stderr
            assert f"(pid {os.getpid()})" in refused.stderr
            assert "regions[0].base_port" in refused.stderr
    assert not layout_of(mesh_folder).record.exists()


def test_without_mesh_yaml(tmp_path: Path) -> None:
    refused = isthmus(tmp_path, "up")
    assert refused.returncode == Exit.USAGE
    assert refused.stderr == (
        "isthmus: mesh.yaml does not exist: run this where your mesh.yaml is, or name it with "
        "--mesh\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_stops_everything_in_time(mesh_folder: Path) -> None:
    supervisor = subprocess.Popen(
        [sys.executable, "-m", "mesh.cli", "up"],
        cwd=mesh_folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    layout = layout_of(mesh_folder)
    until(lambda: (found := read(layout.record)) and found.phase == "up", "it is up")
    running = pids(record_of(mesh_folder))
    began = time.monotonic()
    supervisor.send_signal(signal.SIGINT)
    said, problems = supervisor.communicate(timeout=30)
    assert time.monotonic() - began < 10
    assert supervisor.returncode == Exit.OK, problems
    assert "Ctrl-C stops everything." in said
    assert said.endswith("Everything is stopped.\n")
    assert "Traceback" not in problems
    assert not any(alive(pid) for pid in running)
    assert not layout.run.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_it_starts_stops_it(mesh_folder: Path, number: signal.Signals) -> None:
    supervisor = subprocess.Popen(
        [sys.executable, "-m", "mesh.cli", "up"], cwd=mesh_folder, stderr=subprocess.PIPE, text=True
    )
    layout = layout_of(mesh_folder)
    until(
        lambda: (found := read(layout.record)) and any(each.pid for each in found.processes),
        "something runs",
    )
    running = [process.pid for process in record_of(mesh_folder).processes if process.pid]
    supervisor.send_signal(number)
    _, problems = supervisor.communicate(timeout=30)
    assert supervisor.returncode == Exit.INTERRUPTED, problems
    assert problems.endswith("isthmus: stopped before everything was up\n")
    assert not any(alive(pid) for pid in running)


def test_nothing_outlives_a_killed_supervisor(mesh_folder: Path) -> None:
    record = up(mesh_folder)
    os.kill(record.pid, signal.SIGKILL)
    until(lambda: not any(alive(pid) for pid in pids(record)), "every process ended", 10)
    # What it left behind stops nobody: neither its lock, nor its record, nor its sockets.
    assert isthmus(mesh_folder, "down").stdout == "Nothing was running.\n"
    assert up(mesh_folder).pid != record.pid


def test_killed_processes_come_back(mesh_folder: Path) -> None:
    record = up(mesh_folder)
    killed = isthmus(mesh_folder, "local", "workload", "kill", "eu", "authority")
    assert killed.returncode == Exit.OK, killed.stderr
    workload, _, edge = record.processes
    assert edge.pid is not None
    os.kill(edge.pid, signal.SIGKILL)

    def replaced() -> bool:
        now = {process.name: process.pid for process in record_of(mesh_folder).processes}
        return now[workload.name] not in (None, workload.pid) and now[edge.name] not in (
            None,
            edge.pid,
        )

    until(replaced, "both run again")
    until(lambda: isthmus(mesh_folder, "status").returncode == Exit.OK, "all is healthy again")
    log = layout_of(mesh_folder).log.read_text()
    assert "eu/authority: ended with SIGKILL; starting it again" in log


def test_a_process_that_cannot_start_is_explained(mesh_folder: Path) -> None:
    mesh = mesh_folder / "mesh.yaml"
    mesh.write_text(mesh.read_text().replace("[authority]", "[authority, nonsense]"))
    refused = isthmus(mesh_folder, "up")
    assert refused.returncode == Exit.FAILED
    assert "eu/nonsense does not start: it ended 3 times in a row" in refused.stderr
    assert "No module named 'services.nonsense'" in refused.stderr
    assert "\nTraceback" not in refused.stderr
    assert not layout_of(mesh_folder).record.exists()
    assert not layout_of(mesh_folder).run.exists()


def test_a_region_is_killed_and_started_again(mesh_folder: Path) -> None:
    record = up(mesh_folder)
    killed = isthmus(mesh_folder, "local", "region", "kill", "eu")
    assert killed.returncode == Exit.OK, killed.stderr
    assert not any(alive(pid) for pid in pids(record)[1:])
    assert isthmus(mesh_folder, "status").returncode == Exit.UNREACHABLE
    started = isthmus(mesh_folder, "local", "region", "start", "eu")
    assert started.returncode == Exit.OK, started.stderr
    assert isthmus(mesh_folder, "status").returncode == Exit.OK
    again = isthmus(mesh_folder, "local", "region", "start", "eu")
    assert again.returncode == Exit.CONFLICT
    assert again.stderr == "isthmus: eu runs already: kill it first\n"
