"""Regions' processes from outside: start, kill, pause, and what happens to their disks."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.faults.settings import Settings

START_SECONDS = 60.0
_HANGS_SECONDS = 30.0
_ROOT = Path(__file__).resolve().parents[2]


class RegionFailed(Exception):
    """A region's process ended by itself, or does not answer."""


class Connection:
    """A client's connection to a region: one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """What the region answers. Raises `OSError` if it ends before it does."""
        self._writer.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
        await self._writer.drain()
        line = await self._reader.readline()
        if not line.endswith(b"\n"):
            raise ConnectionResetError("the region's process ended")
        return json.loads(line)  # type: ignore[no-any-return] # answers are mappings

    def close(self) -> None:
        """Lets go of it, whatever is in flight."""
        self._writer.transport.abort()


class Process:
    """One region's process; it can end at any time."""

    def __init__(self, settings: Settings, log: Path, prefix: list[str]) -> None:
        self.name = settings.region
        self.folder = Path(settings.folder)
        self.log = log
        self.lives = 0
        self._settings = settings
        self._prefix = prefix
        self._process: asyncio.subprocess.Process | None = None
        self._backup: Path | None = None

    @property
    def runs(self) -> bool:
        """Whether it runs, paused or not."""
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Starts it and waits until it answers. Raises `RegionFailed`."""
        Path(self._settings.socket).unlink(missing_ok=True)
        self.lives += 1
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._prefix,
                sys.executable,
                "-m",
                "tests.faults.region",
                json.dumps(asdict(self._settings)),
                cwd=_ROOT,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            async with asyncio.timeout(START_SECONDS):
                while True:
                    try:
                        await self.ask("vector")
                        return
                    except OSError:
                        await asyncio.sleep(0.05)
                    if not self.runs:
                        raise RegionFailed(f"{self.name} ended as it started: see {self.log}")
        except TimeoutError:
            raise RegionFailed(f"{self.name} does not answer: see {self.log}") from None

    async def connect(self) -> Connection:
        """A new connection. Raises `OSError` if the region does not listen."""
        return Connection(*await asyncio.open_unix_connection(self._settings.socket, limit=1 << 26))

    async def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """What it answers on a connection of its own. Raises `OSError`, also if it hangs."""
        async with asyncio.timeout(_HANGS_SECONDS):
            connection = await self.connect()
            try:
                return await connection.ask(do, **arguments)
            finally:
                connection.close()

    def pause(self) -> None:
        """Stops it where it is."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Lets it go on."""
        self._signal(signal.SIGCONT)

    async def kill(self) -> None:
        """Ends it without a word."""
        self._signal(signal.SIGKILL)
        if self._process is not None:
            await self._process.wait()

    async def stop(self) -> None:
        """Ends it in order, or else without a word."""
        self._signal(signal.SIGCONT)
        self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(20):
                if self._process is not None:
                    await self._process.wait()
        except TimeoutError:
            await self.kill()

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self.runs:
            os.kill(self._process.pid, number)

    # Its disk, while it does not run.

    def back_up(self) -> None:
        """Copies the folder."""
        self._backup = self.folder.with_suffix(".backup")
        shutil.rmtree(self._backup, ignore_errors=True)
        shutil.copytree(self.folder, self._backup)

    @property
    def backed_up(self) -> bool:
        """Whether there is a copy."""
        return self._backup is not None

    def restore(self) -> None:
        """Puts the copy in the folder's place."""
        assert self._backup is not None
        shutil.rmtree(self.folder)
        shutil.copytree(self._backup, self.folder)

    def lose(self) -> None:
        """Removes the folder."""
        shutil.rmtree(self.folder)
