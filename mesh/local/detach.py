"""A supervisor without a terminal: started in the background, and stopped from elsewhere."""

from __future__ import annotations

import asyncio
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from mesh.local.control import ControlClient
from mesh.local.errors import LocalError, NotUp, StartFailed, StopFailed
from mesh.local.layout import Layout
from mesh.local.record import Record, holder, read, running

START_WITHIN = 180.0
STOP_WITHIN = 15.0
_POLL = 0.1

# Supervisors that this process started and that run on; kept to be reaped when they end.
_started: list[subprocess.Popen[bytes]] = []


async def start_detached(layout: Layout, *, tied: bool = False) -> Record:
    """Starts `isthmus up` in a session of its own; returns once it is healthy.

    With `tied` it stops when this process ends, however that happens. Raises `DetachedFailed` with
    what the supervisor said, or `StartFailed`.
    """
    layout.prepare()
    command = [sys.executable, "-m", "mesh.cli", "up", "--mesh", str(layout.topology.path)]
    if tied:
        command = [shutil.which("setpriv") or "setpriv", "--pdeathsig", "TERM", "--", *command]
    with layout.log.open("ab") as log:
        began = log.tell()
        process = subprocess.Popen(  # noqa: ASYNC220  to be tied, it is forked in the main thread
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    deadline = time.monotonic() + START_WITHIN
    try:
        while time.monotonic() < deadline:
            code = process.poll()
            if code is not None:
                raise DetachedFailed(_said(layout.log, began), code)
            record = read(layout.record)
            if record is not None and record.pid == process.pid and record.phase == "up":
                _started.append(process)
                return record
            await asyncio.sleep(_POLL)
    except BaseException:
        await asyncio.shield(asyncio.to_thread(_end, process))
        raise
    await asyncio.to_thread(_end, process)
    raise StartFailed(f"the mesh was not healthy within {START_WITHIN:.0f} s: see {layout.log}")


class DetachedFailed(LocalError):
    """A detached supervisor ended; carries its exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


async def stop(layout: Layout) -> bool:
    """Stops the supervisor and waits until nothing of it runs; False if none ran.

    Raises `StopFailed` if it does not end.
    """
    pid = holder(layout)
    if pid is None or not running(layout):
        return False
    try:
        # From here on this very process is meant, even if its id were given to another.
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        await _ask_to_stop(layout, process)
        deadline = time.monotonic() + STOP_WITHIN
        while not _ended(process):
            if time.monotonic() > deadline:
                raise StopFailed(
                    f"the supervisor (pid {pid}) still runs after {STOP_WITHIN:.0f} s: end it with "
                    f"`kill -9 {pid}`, which also ends everything that it started"
                )
            await asyncio.sleep(_POLL)
    finally:
        os.close(process)
    for child in tuple(_started):
        if child.poll() is not None:
            _started.remove(child)
    return True


async def _ask_to_stop(layout: Layout, process: int) -> None:
    try:
        await ControlClient(layout.control).ask("down", within=5.0)
    except NotUp:
        # No socket: it is just starting or stopping, or hangs.
        if not _ended(process):
            signal.pidfd_send_signal(process, signal.SIGTERM)


def _ended(process: int) -> bool:
    readable, _, _ = select.select([process], [], [], 0)
    return bool(readable)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_WITHIN)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _said(log: Path, began: int) -> str:
    with log.open("rb") as file:
        file.seek(began)
        lines = file.read().decode(errors="replace").splitlines()
    said = [line for line in lines if line and not line.endswith(" ready")]
    return "\n".join(said).removeprefix("isthmus: ") or f"it ended without a word: see {log}"
