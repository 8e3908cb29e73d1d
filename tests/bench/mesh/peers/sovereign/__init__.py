"""Sovereign, which sidecars poll by HTTP: each of theirs asks once a second for each type.

It is spared what it can be: resources lie ready in a file instead of coming through templates, and
they count from the next poll on instead of after its own refresh.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from mesh.envoy.discovery import Discovered
from mesh.envoy.text import text
from tests.bench.mesh.peers import FOLDER, NoPeer

NAME = "Sovereign"
REFRESH_SECONDS = 1.0
"""Envoy's `refresh_delay`, at which it polls."""

COLLECTIONS = ("clusters", "endpoints", "listeners", "routes")
_KINDS = {
    "Cluster": "clusters",
    "ClusterLoadAssignment": "endpoints",
    "Listener": "listeners",
    "RouteConfiguration": "routes",
}
_LOCK = Path(__file__).with_name("requirements.lock")
_TEMPLATE = Path(__file__).with_name("template.py")
_START_SECONDS = 60.0
_SETUP_SECONDS = 600.0
_WORKERS = 2


async def installed() -> Path:
    """The interpreter of its own environment. Raises `NoPeer`."""
    folder = FOLDER / "sovereign"
    done, python = folder / "requirements.lock", folder / "bin" / "python"
    if done.exists() and done.read_text() == _LOCK.read_text():
        return python
    install = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    for command in (
        (sys.executable, "-m", "venv", "--clear", str(folder)),
        (str(python), *install, "--require-hashes", "-r", str(_LOCK)),
    ):
        process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
        async with asyncio.timeout(_SETUP_SECONDS):
            _, errors = await process.communicate()
        if process.returncode:
            raise NoPeer(f"Sovereign cannot be installed: {errors.decode()[-500:]}")
    done.write_text(_LOCK.read_text())
    return python


def collection(type_url: str) -> str:
    """What Sovereign calls the collection of a type."""
    return _KINDS[type_url.rpartition(".")[2]]


def write(found: Sequence[Discovered], file: Path) -> None:
    """Writes a sidecar's resources as the template reads them, in one step."""
    resources: dict[str, list[object]] = {kind: [] for kind in COLLECTIONS}
    for each in found:
        packed = {"@type": each.type_url, **json.loads(text(each.message))}
        resources[collection(each.type_url)].append(packed)
    scratch = file.with_suffix(".new")
    scratch.write_text(json.dumps(resources))
    scratch.replace(file)


class Sidecars:
    """Simulated sidecars that poll, each over a connection of its own."""

    def __init__(self, port: int, count: int) -> None:
        self._port = port
        self._versions: list[dict[str, str]] = [{} for _ in range(count)]
        self._polled = asyncio.Condition()
        self._tasks = [asyncio.create_task(self._poll(number)) for number in range(count)]
        self.bytes = 0

    async def all_differ(self, kind: str, before: Sequence[str]) -> None:
        """Waits until each has another version of a collection than it had."""
        async with self._polled:
            await self._polled.wait_for(
                lambda: all(
                    each.get(kind, old) != old
                    for each, old in zip(self._versions, before, strict=True)
                )
            )

    def versions(self, kind: str) -> list[str]:
        """The version of a collection that each has; empty: none yet."""
        return [each.get(kind, "") for each in self._versions]

    async def close(self) -> None:
        """Ends."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _poll(self, number: int) -> None:
        loop = asyncio.get_running_loop()
        held = self._versions[number]
        # They began at different times.
        await asyncio.sleep(REFRESH_SECONDS * number / len(self._versions))
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            while True:
                due = loop.time() + REFRESH_SECONDS
                for kind in COLLECTIONS:
                    writer.write(_request(kind, held.get(kind, "0")))
                    version = await self._answer(reader)
                    if held.get(kind) != version:
                        async with self._polled:
                            held[kind] = version
                            self._polled.notify_all()
                await asyncio.sleep(max(0.0, due - loop.time()))
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader) -> str:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
        status = int(head[0].split()[1])
        if status not in (200, 304):
            raise RuntimeError(f"Sovereign answered {status}")
        headers = dict(line.split(": ", 1) for line in head[1:] if line)
        size = int(headers.get("content-length", 0))
        await reader.readexactly(size)
        self.bytes += size
        return headers["x-sovereign-response-version"]


def _request(kind: str, version: str) -> bytes:
    body = json.dumps(
        {
            "version_info": version,
            "type_url": kind,
            "node": {"id": "front", "cluster": "front", "build_version": "a/1.35.0/b"},
        }
    ).encode()
    head = (
        f"POST /v3/discovery:{kind} HTTP/1.1\r\nhost: ads\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


@asynccontextmanager
async def running(python: Path, resources: Path) -> AsyncIterator[int]:
    """A server over that file; its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    spec = {"protocol": "python", "serialization": "passthrough", "path": str(_TEMPLATE)}
    config = resources.with_name("sovereign.yaml")
    config.write_text(
        json.dumps(
            {
                "templates": {"default": [{"type": kind, "spec": spec} for kind in COLLECTIONS]},
                "logging": {"access_logs": {"enabled": False}},
                "authentication": {"enabled": False},
            }
        )
    )
    settings = {
        "SOVEREIGN_CONFIG": f"file://{config}",
        "SOVEREIGN_HOST": "127.0.0.1",
        "SOVEREIGN_PORT": str(port),
        "SOVEREIGN_WORKERS": str(_WORKERS),
        "BENCH_RESOURCES": str(resources),
    }
    process = await asyncio.create_subprocess_exec(
        *("setpriv", "--pdeathsig", "TERM", str(python), "-W", "ignore", "-c"),
        "from sovereign.server import main; main()",
        env={**os.environ, **settings},
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        await _listening(process, port)
        yield port
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def _listening(process: asyncio.subprocess.Process, port: int) -> None:
    async with asyncio.timeout(_START_SECONDS):
        while True:
            if process.returncode is not None:
                raise NoPeer(f"Sovereign ended with {process.returncode} as it started")
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.1)
                continue
            writer.close()
            return
