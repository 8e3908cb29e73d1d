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
from pathlib import Path
from typing import Any

import grpc
from isthmus.replication.v1 import link_pb2_grpc

from mesh.contracts.model import Durability
from mesh.replication import Batch, Group, LinkServicer, WriteContext
from mesh.replication.core.clocks import Vector
from mesh.runtime import collector
from mesh.runtime.host import ANSWER_LIMIT
from tests.bench.replication import contract, pacing, payload
from tests.bench.replication.settings import Settings
from tests.bench.replication.writing import upsert

_FILLED = 50_000
"""How many things are made at once to fill a region."""

_CONTEXT = {
    "region": WriteContext(actor="spiffe://bench/operator/writer"),
    "peer": WriteContext(actor="spiffe://bench/operator/writer", durability=Durability.ONE_PEER),
}


class Region:
    """A group, and the commands that drive it."""

    def __init__(self, group: Group) -> None:
        self.group = group
        self._things: list[Any] = []
        self._paths: tuple[str, ...] = ()
        self._profile = cProfile.Profile()
        self._lags: asyncio.Task[list[float]]

    async def run(self, name: str, arguments: dict[str, Any]) -> Any:
        """One command."""
        found: Callable[..., Awaitable[Any]] = getattr(self, f"do_{name}")
        return await found(**arguments)

    async def do_linked(self) -> None:
        """Waits until every peer is linked and vouches for this region's past."""
        while not (
            all(reach.reachable for reach in self.group.reach().values())
            and self.group.journal.life.confirmed
        ):
            await asyncio.sleep(0.02)

    async def do_fill(self, entities: int, durable: str = "peer") -> dict[str, Any]:
        """Creates all things."""
        done: dict[str, Any] = {}
        for first in range(0, entities, _FILLED):
            numbers = range(first, min(entities, first + _FILLED))
            self._things, self._paths = payload.things(numbers, contract.FIELDS, first), ()
            done = await self.do_load(pack=1024, window=16, durable=durable)
        self._things = []
        return done

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
        changes: int | None = None,
        durable: str = "peer",
    ) -> dict[str, Any]:
        """Writes what was prepared, `pack` things a write, `window` writes at a time.

        For so many seconds, or about so many changes, or else everything once. It is over when all
        is acknowledged: durable here (`durable` "region"), or merged and durable in a peer as well
        ("peer").
        """
        things, paths, context = self._things, self._paths, _CONTEXT[durable]
        before = self._written()
        cpu = time.process_time()
        written = 0
        started = time.monotonic()
        until = float("inf") if seconds is None else started + seconds
        most = float("inf") if seconds is not None else changes or len(things)

        async def keep_writing() -> None:
            nonlocal written
            while time.monotonic() < until and written < most:
                at = written % len(things)
                batch = things[at : at + pack]
                written += len(batch)
                await self._write(batch, paths, context)

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
        """How far the region is, and the processor time that it took so far.

        "loop" is the part of the event loop's thread; the others commit, flush, and serve gRPC.
        """
        vector = sorted((*origin, n) for origin, n in self.group.journal.vector.items())
        return {"vector": vector, "cpu": time.process_time(), "loop": time.thread_time()}

    async def do_digest(self) -> dict[str, Any]:
        """How far the region is, and the digest of that; takes as long as it takes to hash."""
        journal = self.group.journal
        vector = sorted((*origin, n) for origin, n in journal.vector.items())
        return {
            "vector": vector,
            "digest": journal.digest().hex(),
            "entities": len(journal.committed),
        }

    async def do_watch(self, total: int) -> None:
        """Notes from now on the lag of what `pace` writes elsewhere, `total` changes."""
        ready = asyncio.Event()
        self._lags = asyncio.create_task(self._note(total, ready))
        await ready.wait()

    async def _note(self, total: int, ready: asyncio.Event) -> list[float]:
        lags: list[float] = []
        async for event in self.group.watch():
            ready.set()
            if isinstance(event, Batch):
                for change in event.changes:
                    lags.append(pacing.lag(change.new.message.f0))
            if len(lags) >= total:
                break
        return lags

    async def do_pace(self, rate: int, total: int) -> None:
        """Writes `total` things at a rate, each by itself, durable here."""
        things = payload.things(range(total), contract.FIELDS, 1)
        pending: set[asyncio.Task[None]] = set()

        def send(number: int) -> None:
            things[number].f0 = pacing.now()
            task = asyncio.create_task(self._write([things[number]], (), _CONTEXT["region"]))
            pending.add(task)
            task.add_done_callback(pending.discard)

        await pacing.paced(rate, total, send)
        await asyncio.gather(*pending)

    async def do_lags(self) -> list[float]:
        """The lags in milliseconds, once all are there."""
        return await self._lags

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


async def obey(region: Region, opened: float) -> None:
    """Runs commands until `stop` or the end of stdin. `opened` is how many seconds opening took."""
    reader = asyncio.StreamReader(limit=1 << 24)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    _answer({"opened": opened})
    while line := await reader.readline():
        command, arguments = json.loads(line)
        if command == "stop":
            return
        try:
            _answer(await region.run(command, arguments))
        except Exception as error:
            _answer({"error": f"{type(error).__name__}: {error}"})
            raise


# Answers alone go out there; what else is printed goes where errors go.
_ANSWERS = os.dup(1)
os.dup2(2, 1)


def _answer(value: Any) -> None:
    os.write(_ANSWERS, json.dumps(value).encode() + b"\n")


async def _main(settings: Settings) -> None:
    started = time.monotonic()
    group, servers = await open_group(settings)
    try:
        await obey(Region(group), time.monotonic() - started)
    finally:
        await group.leave()
        await asyncio.gather(*(server.stop(0) for server in servers))
        await group.close()


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    asyncio.run(_main(Settings(**given | {"regions": tuple(given["regions"])})))
