"""One region's process: a real group on a real disk, its links, and a socket for clients.

Started with its `Settings` as JSON. A client sends requests as lines of JSON and reads an answer to
each, one after another; many clients are served at once. What a client abandons goes on.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
from isthmus.replication.v1 import link_pb2_grpc

from mesh.contracts.model import Durability
from mesh.identity.spiffe import WorkloadId
from mesh.replication import (
    DurabilityPending,
    Group,
    LinkServicer,
    ReplicationError,
    WriteContext,
    committer,
    tokens,
)
from mesh.replication.core import entities
from mesh.replication.schema import generated_class
from mesh.replication.signing import WorkloadSigning
from tests.faults import operations
from tests.faults.bugs import BUGS
from tests.faults.settings import TRUST_DOMAIN, WORKLOAD, Settings
from tests.support.merging import CONTRACT, SCHEMA, Thing

GROUP = "things"
_FLUSH_SECONDS = 0.2
"""Flushes come often, so that kills meet them too."""


class Region:
    """A group and what clients may ask of it. `skew_ns` is how wrong its wall clock is."""

    def __init__(self, settings: Settings) -> None:
        self.skew_ns = 0
        self._settings = settings
        self._group: Group
        self._servers: list[grpc.aio.Server] = []
        self._clients: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Opens the group, links it, and serves clients last."""
        settings = self._settings
        self._group = await Group.open(
            CONTRACT,
            GROUP,
            region=settings.region,
            peers=settings.dials,
            folder=Path(settings.folder),
            clock=self._clock,
            class_of=lambda name: Thing if name in SCHEMA.entities else generated_class(name),
            signing=WorkloadSigning(
                GROUP,
                WorkloadId(TRUST_DOMAIN, settings.region, WORKLOAD),
                Path(settings.identity),
                self._clock,
            ),
        )
        for peer, address in settings.listens.items():
            self._servers.append(await self._serve(peer, address))
        options = [
            ("grpc.initial_reconnect_backoff_ms", 50),
            ("grpc.max_reconnect_backoff_ms", 300),
        ]
        self._group.connect(
            lambda peer: grpc.aio.insecure_channel(settings.dials[peer], options=options)
        )
        Path(settings.socket).unlink(missing_ok=True)
        await asyncio.start_unix_server(self._client, settings.socket, limit=1 << 24)

    def _clock(self) -> int:
        return time.time_ns() + self.skew_ns

    async def close(self) -> None:
        """Ends in order."""
        await self._group.leave()
        await asyncio.gather(*(server.stop(0) for server in self._servers))
        await self._group.close()

    async def _serve(self, peer: str, address: str) -> grpc.aio.Server:
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        link_pb2_grpc.add_LinkServiceServicer_to_server(
            LinkServicer(self._group, lambda _: peer), server
        )
        server.add_insecure_port(address)
        await server.start()
        return server

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                answer = await self.answer(json.loads(line))
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        except ConnectionError:
            pass  # the client no longer waits
        finally:
            writer.close()

    async def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """What a client is told: its result, or the name of the error that refused it."""
        run = getattr(self, f"do_{request.pop('do')}")
        try:
            return await run(**request)  # type: ignore[no-any-return] # each do_ gives a mapping
        except ReplicationError as error:
            return {"error": type(error).__name__, "detail": str(error)}

    async def do_write(
        self,
        uid: str,
        request: str,
        write: list[Any],
        durability: str,
        repeated: bool,
        token: str,
        seconds: float,
    ) -> dict[str, Any]:
        """One attempt of a write, once the session's token is covered."""
        deadline = time.monotonic() + seconds
        seen = await self._wait(token, deadline)
        result: dict[str, Any] = {}
        run = operations.change(self._group, uid, write)

        def change(transaction: Any) -> Any:
            found = run(transaction)
            result.update(json.loads(found.value))
            return found

        context = WriteContext(
            actor="spiffe://faults/operator/client",
            request_id=request,
            repeated=repeated,
            method="write",
            request_digest=hashlib.sha256(json.dumps(write).encode()).digest(),
            durability=Durability[durability],
            deadline=deadline,
        )
        try:
            message = await self._group.write(change, context)
        except DurabilityPending:
            return {"error": "DurabilityPending", **result, **self._position(), "detail": ""}
        position = self._position() if result else {}  # of a repeat nothing is known
        return {**json.loads(message.value), **position, **self._token(seen)}

    async def do_read(self, keys: list[str], token: str, seconds: float) -> dict[str, Any]:
        """Some entities, once the session's token is covered."""
        seen = await self._wait(token, time.monotonic() + seconds)
        return {"read": operations.read(self._group, keys)} | self._token(seen)

    async def do_skew(self, milliseconds: int) -> dict[str, Any]:
        """Sets the wall clock wrong."""
        self.skew_ns = milliseconds * 1_000_000
        return {}

    async def do_state(self) -> dict[str, Any]:
        """Where the region stands: its vector, and its state by digest and by canonical bytes."""
        journal = self._group.journal
        whole = hashlib.sha256()
        for (kind, key), state in sorted(journal.committed.items()):
            whole.update(entities.checksum((kind, key), entities.encode(state)))
        return {
            "vector": sorted([*origin, sequence] for origin, sequence in journal.vector.items()),
            "digest": journal.digest().hex(),
            "bytes": whole.hexdigest(),
            "things": operations.read(
                self._group, [key for kind, key in journal.committed if kind in SCHEMA.entities]
            ),
            "status": str(self._group.status()).replace("\n", " "),
        }

    async def do_vector(self) -> dict[str, Any]:
        """How far the region is."""
        vector = self._group.journal.vector
        return {"vector": [[*origin, sequence] for origin, sequence in vector.items()]}

    async def _wait(self, token: str, deadline: float) -> Any:
        seen = tokens.decode(bytes.fromhex(token)).get(GROUP, {})
        await self._group.wait_for(seen, deadline)
        return seen

    def _token(self, seen: Any) -> dict[str, Any]:
        here = self._group.seen() | self._group.unseen(seen)
        return {"token": tokens.encode({GROUP: here}).hex()}

    def _position(self) -> dict[str, Any]:
        """A position of this region that the write is not behind."""
        origin = self._group.journal.origin
        return {"position": [*origin, self._group.journal.vector.get(origin, 0)]}


async def _main(settings: Settings) -> None:
    committer.FLUSH_SECONDS = _FLUSH_SECONDS
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    with ExitStack() as stack:
        if settings.bug:
            stack.enter_context(BUGS[settings.bug]())
        region = Region(settings)
        await region.open()
        await ended.wait()
        await region.close()


if __name__ == "__main__":
    asyncio.run(_main(Settings(**json.loads(sys.argv[1]))))
