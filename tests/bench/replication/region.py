"""One region's process: a group of things, and what it does when it is asked.

Started with its `Place` as JSON; takes commands as lines of JSON on stdin and answers each with one
on stdout. Commands run one after another, except that `stop` ends the process.
"""

from __future__ import annotations

import asyncio
import cProfile
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from isthmus.replication.v1 import link_pb2_grpc

from mesh.contracts.model import Durability
from mesh.replication import Group, LinkServicer, WriteContext
from mesh.replication.core.clocks import Vector
from mesh.runtime import collector
from mesh.runtime.host import ANSWER_LIMIT
from tests.bench.replication import contract, payload
from tests.bench.replication.writing import upsert

_CONTEXT = {
    "region": WriteContext(actor="spiffe://bench/operator/writer"),
    "peer": WriteContext(actor="spiffe://bench/operator/writer", durability=Durability.ONE_PEER),
}


@dataclass(frozen=True)
class Settings:
    """Where a region lives: `folder` for its store, `sockets` for those of all regions."""

    region: str
    regions: tuple[str, ...]
    folder: str
    sockets: str

    @property
    def peers(self) -> tuple[str, ...]:
        """The other regions."""
        return tuple(region for region in self.regions if region != self.region)


class Region:
    """A group, and the commands that drive it."""

    def __init__(self, group: Group) -> None:
        self.group = group
        self._things: list[Any] = []
        self._paths: tuple[str, ...] = ()
        self._profile = cProfile.Profile()

    async def run(self, name: str, arguments: dict[str, Any]) -> Any:
        """One command."""
        found: Callable[..., Awaitable[Any]] = getattr(self, f"do_{name}")
        return await found(**arguments)

    async def do_linked(self) -> None:
        """Waits until every peer is linked and vouches for this region's past."""
        while not (
            all(reach.reachable for reach in self.group.reach().values())
            and self.group.journal.confirmed
        ):
            await asyncio.sleep(0.02)

    async def do_prepare(
        self, numbers: str, entities: int, seed: int, fields: list[str] | None = None
    ) -> None:
        """Makes what `load` will write; `fields` are those to write, if not whole things."""
        drawn = payload.draw(numbers, entities, payload.DRAWN, seed)
        self._paths = tuple(fields or ())
        own = seed + sum(self.group.region.encode())  # the same keys in each region, other values
        self._things = payload.things(drawn, self._paths or contract.FIELDS, own)

    async def do_load(
        self,
        pack: int = 512,
        window: int = 64,
        seconds: float | None = None,
        durable: str = "peer",
    ) -> dict[str, Any]:
        """Writes what was prepared, `pack` things a write, `window` writes at a time.

        For so many seconds, or without it everything once. It is over when all is acknowledged:
        durable here (`durable` "region"), or merged and durable in a peer as well ("peer").
        """
        things, paths, context = self._things, self._paths, _CONTEXT[durable]
        before = self._written()
        cpu = time.process_time()
        at = 0
        started = time.monotonic()
        until = float("inf") if seconds is None else started + seconds

        async def keep_writing() -> None:
            nonlocal at
            while time.monotonic() < until:
                if at >= len(things):
                    if seconds is None:
                        return
                    at = 0
                first, at = at, at + pack
                await self._write(things[first:at], paths, context)

        await asyncio.gather(*(keep_writing() for _ in range(window)))
        return {
            "changes": self._written() - before,
            "started": started,
            "ended": time.monotonic(),
            "cpu": time.process_time() - cpu,
        }

    async def _write(self, things: list[Any], paths: tuple[str, ...], context: Any) -> None:
        await self.group.write(lambda transaction: upsert(transaction, things, *paths), context)

    def _written(self) -> int:
        journal = self.group.journal
        return sum(n for origin, n in journal.vector.items() if origin.region == journal.region)

    async def do_cover(self, vector: list[tuple[str, int, int]]) -> None:
        """Waits until this much is here."""
        wanted: Vector = {(region, incarnation): n for region, incarnation, n in vector}  # type: ignore[misc]
        while any(self.group.journal.vector.get(origin, 0) < n for origin, n in wanted.items()):
            await asyncio.sleep(0.01)

    async def do_state(self) -> dict[str, Any]:
        """How far the region is, and the digest of its state."""
        status = self.group.status()
        vector = sorted((*origin, n) for origin, n in self.group.journal.vector.items())
        return {
            "vector": vector,
            "digest": status.digest.hex(),
            "entities": status.entities,
            "cpu": time.process_time(),
        }

    async def do_profile(self, on: bool, file: str = "") -> None:
        """Profiles the event loop's thread from now on, or ends that and writes the file."""
        if on:
            self._profile.enable()
        else:
            self._profile.disable()
            self._profile.dump_stats(file)


async def open_group(settings: Settings) -> tuple[Group, list[grpc.aio.Server]]:
    """Opens the group, serves it to each peer on a socket of its own, and follows the peers."""
    group = await Group.open(
        contract.load(),
        contract.GROUP,
        region=settings.region,
        peers=settings.peers,
        folder=Path(settings.folder),
        class_of=contract.message_class,
    )
    collector.settle()
    servers = [await _serve(group, settings, peer) for peer in settings.peers]
    limit = [
        ("grpc.max_receive_message_length", ANSWER_LIMIT),
        ("grpc.initial_reconnect_backoff_ms", 50),
        ("grpc.max_reconnect_backoff_ms", 200),
    ]
    group.connect(
        lambda peer: grpc.aio.insecure_channel(
            f"unix:{_socket(settings, peer, settings.region)}", options=limit
        )
    )
    return group, servers


def _socket(settings: Settings, region: str, caller: str) -> Path:
    return Path(settings.sockets) / f"{region}-for-{caller}.sock"


async def _serve(group: Group, settings: Settings, peer: str) -> grpc.aio.Server:
    """A server for one caller, who is known by the socket."""
    server = grpc.aio.server(options=[("grpc.max_send_message_length", ANSWER_LIMIT)])
    link_pb2_grpc.add_LinkServiceServicer_to_server(LinkServicer(group, lambda _: peer), server)
    socket = _socket(settings, settings.region, peer)
    socket.unlink(missing_ok=True)
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    return server


async def obey(region: Region) -> None:
    """Runs commands until `stop` or the end of stdin."""
    reader = asyncio.StreamReader(limit=1 << 24)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    _answer("ready")
    while line := await reader.readline():
        command, arguments = json.loads(line)
        if command == "stop":
            return
        try:
            _answer(await region.run(command, arguments))
        except Exception as error:
            _answer({"error": f"{type(error).__name__}: {error}"})
            raise


def _answer(value: Any) -> None:
    os.write(1, json.dumps(value).encode() + b"\n")


async def _main(settings: Settings) -> None:
    group, servers = await open_group(settings)
    try:
        await obey(Region(group))
    finally:
        await group.leave()
        await asyncio.gather(*(server.stop(0) for server in servers))
        await group.close()


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    asyncio.run(_main(Settings(**given | {"regions": tuple(given["regions"])})))
