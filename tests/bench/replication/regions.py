"""Starts regions as processes and asks them to do things."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.bench.replication import contract
from tests.bench.replication.region import Settings

START_SECONDS = 60.0


class RegionFailed(Exception):
    """A region's process ended, or could not do what it was asked."""


class Process:
    """A region's process, from outside."""

    def __init__(self, name: str, command: list[str], log: Path, environment: Mapping[str, str]):
        self.name = name
        self._command = command
        self._log = log
        self._environment = dict(environment)
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """The process's id."""
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Starts it and waits until it takes commands."""
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=self._environment or None,
                limit=1 << 24,
            )
        async with asyncio.timeout(START_SECONDS):
            await self._read()

    async def ask(self, command: str, **arguments: Any) -> Any:
        """What a command answers. Raises `RegionFailed`."""
        self.tell(command, **arguments)
        return await self._read()

    def tell(self, command: str, **arguments: Any) -> None:
        """Sends a command whose answer is read by nobody."""
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.write(json.dumps([command, arguments]).encode() + b"\n")

    async def _read(self) -> Any:
        assert self._process is not None and self._process.stdout is not None
        line = await self._process.stdout.readline()
        answer = json.loads(line) if line else {"error": "it ended"}
        if isinstance(answer, dict) and "error" in answer:
            log = self._log.read_text()[-2000:]
            raise RegionFailed(f"region {self.name}: {answer['error']}\n{log}")
        return answer

    def memory(self) -> float:
        """Resident memory in MB."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        raise RegionFailed(f"region {self.name} has ended")

    async def stop(self) -> None:
        """Ends it in order."""
        if self._process is None or self._process.returncode is not None:
            return
        try:
            self.tell("stop")
            async with asyncio.timeout(60):
                await self._process.wait()
        except (TimeoutError, ConnectionError):
            await self.kill()

    async def kill(self) -> None:
        """Ends it as a power cut would end it, but for the machine's memory."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


class Regions:
    """Some regions of one group in a folder of their own."""

    def __init__(self, names: Iterable[str], root: Path) -> None:
        names = tuple(names)
        self.root = root
        self.processes = {
            name: Process(
                name,
                [
                    sys.executable,
                    "-m",
                    "tests.bench.replication.region",
                    json.dumps(asdict(Settings(name, names, str(root / name), str(root)))),
                ],
                root / f"{name}.log",
                {},
            )
            for name in names
        }

    def __getitem__(self, name: str) -> Process:
        return self.processes[name]

    async def start(self) -> None:
        """Starts all and waits until they are linked."""
        await asyncio.gather(*(process.start() for process in self.processes.values()))
        await self.all("linked")

    async def all(self, command: str, **arguments: Any) -> list[Any]:
        """Asks all regions the same at once."""
        asked = (process.ask(command, **arguments) for process in self.processes.values())
        return list(await asyncio.gather(*asked))

    async def settle(self) -> None:
        """Waits until all have everything. Raises `RegionFailed` unless all hold the same."""
        most: dict[tuple[str, int], int] = {}
        for state in await self.all("state"):
            for region, incarnation, n in state["vector"]:
                most[region, incarnation] = max(n, most.get((region, incarnation), 0))
        await self.all("cover", vector=[(*origin, n) for origin, n in most.items()])
        digests = {state["digest"] for state in await self.all("state")}
        if len(digests) != 1:
            raise RegionFailed("the regions hold different states after the same changes")

    async def stop(self) -> None:
        """Ends all."""
        await asyncio.gather(*(process.stop() for process in self.processes.values()))


@asynccontextmanager
async def running(*names: str) -> AsyncIterator[Regions]:
    """Linked regions without a past."""
    if not contract.IMAGE.exists():
        contract.compile_contract()
    root = Path(tempfile.mkdtemp(prefix="ist-"))
    regions = Regions(names, root)
    try:
        await regions.start()
        yield regions
    finally:
        await regions.stop()
        shutil.rmtree(root)
