"""What a command that talks to the mesh needs: topology, edges, the operator's certificate."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grpc

from mesh.cli.exits import CommandError, Exit
from mesh.local.layout import Layout
from mesh.local.record import running
from mesh.runtime.client import Edges, NoEdge
from mesh.topology import Topology, load

T = TypeVar("T")

NOT_UP = "this mesh is not up: start it with `isthmus up`"


@dataclass(frozen=True)
class Session:
    """An operator's way into a mesh, through the first edge that answers."""

    topology: Topology
    layout: Layout
    edges: Edges

    async def read(self, invoke: Callable[[grpc.aio.Channel], Awaitable[T]]) -> T:
        """A call without side effects."""
        return await self.edges.call(invoke, repeatable=True)

    async def write(self, invoke: Callable[[grpc.aio.Channel, str], Awaitable[T]]) -> T:
        """A mutation, with a request id that is the same at every edge: its effect is one."""
        request_id = str(uuid.uuid4())
        return await self.edges.call(lambda channel: invoke(channel, request_id), repeatable=True)

    async def once(self, invoke: Callable[[grpc.aio.Channel], Awaitable[T]]) -> T:
        """A mutation without a request id: not repeated once it was perhaps done."""
        return await self.edges.call(invoke, repeatable=False)


@asynccontextmanager
async def session(mesh: Path, region: str, *, only: bool = False) -> AsyncIterator[Session]:
    """Opens a session; `region`'s edge is tried first, and with `only` no other.

    Raises `TopologyError`, or `CommandError` if the mesh has no operator's certificate.
    """
    topology = load(mesh)
    layout = Layout.of(topology)
    if not (layout.operator / "tls.crt").exists():
        raise CommandError(
            f"{layout.operator} holds no operator's certificate: the mesh makes one as it starts, "
            "and another within half a minute should it be gone"
            if running(layout)
            else NOT_UP,
            Exit.UNREACHABLE,
        )
    order = topology.failover_order(region) if region else topology.region_names
    addresses = [str(topology.edge(name)) for name in order]
    edges = Edges(addresses[:1] if only else addresses, layout.operator)
    try:
        yield Session(topology, layout, edges)
    except NoEdge:
        # Why nothing answers is known better here than at the edges.
        if not running(layout):
            raise CommandError(NOT_UP, Exit.UNREACHABLE) from None
        raise
    finally:
        await edges.close()


def run(work: Coroutine[Any, Any, T]) -> T:
    """Runs a command's coroutine."""
    return asyncio.run(work)
