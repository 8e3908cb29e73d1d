"""go-control-plane, pinned by `go.mod`, behind a small server of our own: `main.go`."""

from __future__ import annotations

import asyncio
import json
import resource
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from mesh.xds.resources import Snapshot
from tests.bench.mesh.peers import FOLDER, NoPeer

NAME = "go-control-plane"
_SOURCE = Path(__file__).parent
_BUILD_SECONDS = 900.0


@dataclass(frozen=True)
class Served:
    """What one change took; processor and bytes since the server began."""

    milliseconds: float
    processor_seconds: float
    bytes: int


async def built() -> Path:
    """The server's executable. Raises `NoPeer`."""
    go = shutil.which("go")
    if go is None:
        raise NoPeer("go-control-plane needs Go 1.24 or newer: https://go.dev/dl")
    out = FOLDER / "gocontrolplane"
    command = (go, "build", "-C", str(_SOURCE), "-mod=readonly", "-trimpath", "-o", str(out))
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    async with asyncio.timeout(_BUILD_SECONDS):
        _, errors = await process.communicate()
    if process.returncode:
        raise NoPeer(f"go-control-plane cannot be built: {errors.decode()[-500:]}")
    return out


class Server:
    """A server that runs."""

    def __init__(self, process: asyncio.subprocess.Process, folder: Path) -> None:
        self.process = process
        self._folder = folder

    async def serve(
        self, version: str, snapshot: Snapshot, streams: int, types: Sequence[str]
    ) -> Served:
        """Serves a snapshot from now on; waits until so many streams acknowledged these types."""
        file = self._folder / "resources.binpb"
        file.write_bytes(b"".join(each.whole for all in snapshot.values() for each in all.values()))
        return await self._order(version, str(file), streams, types)

    async def wait(self, streams: int, types: Sequence[str]) -> Served:
        """Waits until so many streams have acknowledged what is served of these types."""
        return await self._order("", "", streams, types)

    @property
    def megabytes(self) -> float:
        """The memory that the server holds."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * resource.getpagesize() / (1 << 20)

    async def _order(self, version: str, file: str, streams: int, types: Sequence[str]) -> Served:
        told = {"version": version, "file": file, "streams": streams, "types": list(types)}
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(told).encode() + b"\n")
        return Served(**json.loads(await self.process.stdout.readline()))


@asynccontextmanager
async def running(executable: Path, socket: Path) -> AsyncIterator[Server]:
    """A server on a Unix socket."""
    process = await asyncio.create_subprocess_exec(
        *("setpriv", "--pdeathsig", "KILL", str(executable), str(socket)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield Server(process, socket.parent)
    finally:
        process.kill()
        await process.wait()
