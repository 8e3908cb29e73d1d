"""Starts regions as processes and asks them to do things."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mesh import topology as topologies
from mesh.agent import Sidecar
from mesh.identity.spiffe import WorkloadId
from mesh.local.ports import claim_blocks
from mesh.local.wan import Wan
from mesh.place import Place
from tests.bench.replication import contract
from tests.bench.replication.settings import Settings
from tests.e2e.sidecars import DOMAIN, SmallMesh

START_SECONDS = 60.0
STOP_SECONDS = 30.0
_DIES_WITH_US = ("setpriv", "--pdeathsig", "KILL")


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

    async def start(self) -> Any:
        """Starts it and waits until it takes commands; gives what it says then."""
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *_DIES_WITH_US,
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=self._environment or None,
                limit=1 << 24,
            )
        async with asyncio.timeout(START_SECONDS):
            return await self._read()

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
            async with asyncio.timeout(STOP_SECONDS):
                await self._process.wait()
        except (TimeoutError, ConnectionError):
            await self.kill()

    async def kill(self) -> None:
        """Ends it as a power cut would end it, but for the machine's memory."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


class Regions:
    """Some regions of one group; `root` is a folder for what they keep."""

    def __init__(self, processes: Mapping[str, Process], root: Path) -> None:
        self.processes = processes
        self.root = root

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
        """Waits until all have everything."""
        most: dict[tuple[str, int], int] = {}
        for state in await self.all("state"):
            for region, incarnation, n in state["vector"]:
                most[region, incarnation] = max(n, most.get((region, incarnation), 0))
        await self.all("cover", vector=[(*origin, n) for origin, n in most.items()])

    async def agree(self) -> None:
        """Settles. Raises `RegionFailed` unless all hold the same, by their digests."""
        await self.settle()
        found = await self.all("digest")
        if any(each != found[0] for each in found):
            raise RegionFailed(f"the regions hold different states after all changes: {found}")

    async def stop(self) -> None:
        """Ends all."""
        await asyncio.gather(*(process.stop() for process in self.processes.values()))


@asynccontextmanager
async def running(*names: str, sidecars: bool = False) -> AsyncIterator[Regions]:
    """Linked regions without a past, over Unix sockets, or through sidecars with mTLS."""
    root = Path(tempfile.mkdtemp(prefix="ist-"))
    async with AsyncExitStack() as stack:
        stack.callback(shutil.rmtree, root)
        if sidecars:
            places = await stack.enter_async_context(meshed(*names))
            processes = {place.region: hosted(place) for place in places}
        else:
            processes = {name: _direct(name, names, root) for name in names}
        regions = Regions(processes, root)
        stack.push_async_callback(regions.stop)
        await regions.start()
        yield regions


def _direct(name: str, names: tuple[str, ...], root: Path) -> Process:
    settings = json.dumps(asdict(Settings(name, names, str(root / name), str(root))))
    command = [sys.executable, "-m", "tests.bench.replication.region", settings]
    return Process(name, command, root / f"{name}.log", {})


def hosted(place: Place) -> Process:
    """A region that runs as a real workload."""
    for folder in (place.run, place.data, place.logs):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    command = [sys.executable, "-m", "tests.bench.replication.hosted"]
    environment = os.environ | place.environment()
    return Process(place.region, command, place.logs / "service.log", environment)


@asynccontextmanager
async def meshed(*names: str) -> AsyncIterator[list[Place]]:
    """Places for the workload in each region (eu and us), with running sidecars."""
    state, run = (Path(tempfile.mkdtemp(prefix=name)) for name in ("isthmus-", "ist-"))
    claim = claim_blocks(2)
    small = SmallMesh(state, run, list(claim.bases))
    text = small.topology.path.read_text()
    small.topology.path.write_text(text.replace("alpha, beta, gamma", contract.WORKLOAD))
    topology = topologies.load(small.topology.path)
    wan = Wan(topology)
    sidecars: list[Sidecar] = []
    try:
        await wan.start()
        places = [small.place(name, contract.WORKLOAD) for name in names]
        for place in places:
            place.run.mkdir(parents=True, mode=0o700)
            identity = WorkloadId(DOMAIN, place.region, contract.WORKLOAD)
            small.credentials(identity, place.region).write(place.identity)
            sidecars.append(Sidecar(contract.load(), topology, place))
            await sidecars[-1].start()
        yield places
    finally:
        for sidecar in sidecars:
            await sidecar.kill()
        await wan.close()
        await small.close()
        claim.release()
        shutil.rmtree(run)
        shutil.rmtree(state)
