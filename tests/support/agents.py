"""Device agents as real processes, and what can be seen of them from outside."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from services.device_agent.playlist import Playlist, parse
from tests.support.gateway import TestAuthority


class AgentProcess:
    """An agent process, and what can be seen of it from outside."""

    def __init__(self, device_id: str, root: Path, authority: TestAuthority, edges: str) -> None:
        self.device_id = device_id
        self.state = root / device_id
        self.output = root / "origin"
        self._environment = {
            **os.environ,
            "ISTHMUS_DEVICE_ID": device_id,
            "ISTHMUS_REGION": "eu",
            "ISTHMUS_STATE_DIR": str(self.state),
            "ISTHMUS_MEDIA_ROOT": str(root / "media"),
            "ISTHMUS_OUTPUT_DIR": str(self.output),
            "ISTHMUS_EDGES": edges,
        }
        authority.write_device(self.state / "identity", device_id)
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        with (self.state / "log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "services.device_agent.main"),
                env=self._environment,
                stdout=log,
                stderr=log,
            )

    async def stop(self) -> None:
        """Ends it in order; one that does not end in time is killed, and the test fails."""
        if self.process is None or self.process.returncode is not None:
            return
        self.process.terminate()
        try:
            async with asyncio.timeout(20):  # a second, unless the machine is busy
                await self.process.wait()
        except TimeoutError:
            await self.kill()
            raise

    async def kill(self) -> None:
        """As the kernel would, or a power cut."""
        self.signal(signal.SIGKILL)
        if self.process is not None:
            await self.process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the agent alone."""
        assert self.process is not None
        self.process.send_signal(number)

    def log(self) -> str:
        return (self.state / "log").read_text()

    def encoders(self) -> list[int]:
        """The pids of the ffmpegs that write below this device's folders."""
        return [
            int(entry.name)
            for entry in Path("/proc").iterdir()
            if entry.name.isdigit()
            and f"-{self.device_id}/" in _command(entry)
            and str(self.output) in _command(entry)
        ]

    def live(self, channel: str = "news") -> Playlist:
        path = self.output / channel / "live.m3u8"
        return parse(path.read_text()) if path.exists() else Playlist()


def _command(entry: Path) -> str:
    try:
        return (entry / "cmdline").read_text()
    except OSError:
        return ""


async def until(condition: Callable[[], object], seconds: float = 15.0) -> float:
    """Waits for a condition; returns how long that took. Fails when time is up."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    while not condition():
        if loop.time() - started > seconds:
            pytest.fail(f"not within {seconds} s")
        await asyncio.sleep(0.02)
    return loop.time() - started
