"""A region as a real workload: the same group behind the runtime's interceptors and a sidecar."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc

from mesh import topology as topologies
from mesh.place import Place
from mesh.runtime import Host, call_context, logs
from mesh.runtime.telemetry import Telemetry
from tests.bench.replication import contract
from tests.bench.replication.region import Region, obey
from tests.bench.replication.writing import upsert

Context = grpc.aio.ServicerContext[Any, Any]


class ThingService:
    """bench.v1.ThingService."""

    def __init__(self, host: Host) -> None:
        self._group = host.group

    async def empty(self, request: Any, context: Context) -> Any:
        """Does nothing."""
        return contract.message_class("EmptyResponse")()

    async def write(self, request: Any, context: Context) -> Any:
        """Writes one thing, and answers once it is durable here."""
        await self._group.write(
            lambda transaction: upsert(transaction, [request.thing]), call_context(request)
        )
        return contract.message_class("WriteResponse")()

    async def write_many(
        self, requests: AsyncIterator[Any], context: Context
    ) -> AsyncIterator[Any]:
        """Each message's things in one write; several messages may be under way."""
        answer = contract.message_class("WriteManyResponse")
        pending: asyncio.Queue[asyncio.Task[int] | None] = asyncio.Queue()

        async def read() -> None:
            async for request in requests:
                pending.put_nowait(asyncio.create_task(self._write(request.things, request)))
            pending.put_nowait(None)

        reading = asyncio.create_task(read())
        while (task := await pending.get()) is not None:
            yield answer(written=await task)
        await reading

    async def _write(self, things: Any, request: Any) -> int:
        await self._group.write(
            lambda transaction: upsert(transaction, things), call_context(request)
        )
        return len(things)


def register(service: ThingService, server: grpc.aio.Server) -> None:
    """Adds the service, as generated code would."""
    of = contract.message_class
    kinds = {
        "Empty": (grpc.unary_unary_rpc_method_handler, service.empty),
        "Write": (grpc.unary_unary_rpc_method_handler, service.write),
        "WriteMany": (grpc.stream_stream_rpc_method_handler, service.write_many),
    }
    handlers = {
        name: kind(method, of(f"{name}Request").FromString, of(f"{name}Response").SerializeToString)
        for name, (kind, method) in kinds.items()
    }
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(contract.SERVICE, handlers),)
    )


async def _bare(host: Host) -> None:
    """An empty method of grpc.aio alone, in the same process, on a socket of its own."""
    server = grpc.aio.server()
    register(ThingService(host), server)
    server.add_insecure_port(f"unix:{host.place.run / 'bare.sock'}")
    await server.start()
    try:
        await asyncio.Event().wait()
    finally:
        await server.stop(0)


async def _build(host: Host) -> None:
    host.add(register, ThingService(host), contract.SERVICE)
    host.background("bare", _bare(host))
    host.background("commands", _obey(host))


async def _obey(host: Host) -> None:
    await obey(Region(host.group), 0.0)
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.Event().wait()


async def _main() -> int:
    place = Place.from_environment()
    of = contract.load()
    contract.message_class("Thing")
    logs.configure(place)
    with contextlib.closing(Telemetry(place, of)) as telemetry:
        host = Host(place, topologies.load(Path(place.topology)), of, telemetry)
        return await host.serve(_build, False)


if __name__ == "__main__":
    raise SystemExit(asyncio.run(_main()))
