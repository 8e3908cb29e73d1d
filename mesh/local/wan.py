"""The WAN between the regions of one machine: TCP proxies whose links can fail, without root.

Region `source` dials `Topology.route(source, target, listener)`; the WAN carries the connection to
`Topology.inbound(target, listener)`. Bytes from A to B belong to the directed link A->B, whichever
side opened the connection. As no TCP connection lives on one direction, a cut of A->B resets all
connections between A and B; to lose one direction only, stall it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from mesh.local.wan_link import HEALTHY, End, Fault, Link, Stream
from mesh.place import EDGE
from mesh.topology import Address, Topology

_CONNECT_TIMEOUT = 5.0

__all__ = ["HEALTHY", "Fault", "Link", "Wan"]


class Wan:
    """All links between the regions of `topology`."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._ends: set[End] = set()
        names = topology.region_names
        self.links = {(a, b): Link(a, b) for a in names for b in names if a != b}

    async def start(self) -> None:
        """Listens on every route. Raises `OSError` if an address cannot be bound."""
        listeners = (EDGE, *self._topology.workloads)
        try:
            for source, target in self.links:
                for listener in listeners:
                    await self._listen(
                        self._topology.route(source, target, listener),
                        self._topology.inbound(target, listener),
                        self.links[source, target],
                        self.links[target, source],
                    )
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Stops listening and resets every connection."""
        for server in self._servers:
            server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for end in tuple(self._ends):
            end.abort()
        for server in self._servers:
            await server.wait_closed()
        self._servers.clear()

    def link(self, source: str, target: str) -> Link:
        """The directed link. Raises `KeyError` naming those that exist."""
        try:
            return self.links[source, target]
        except KeyError:
            known = ", ".join(f"{a}->{b}" for a, b in sorted(self.links))
            raise KeyError(f"no link {source}->{target}: there are {known}") from None

    def set_fault(self, source: str, target: str, fault: Fault) -> None:
        """Sets what is wrong with one directed link; `HEALTHY` heals it."""
        self.link(source, target).set_fault(fault)

    def around(self, region: str) -> Iterator[Link]:
        """Every link from or to a region. Raises `TopologyError` for an unknown one."""
        self._topology.region(region)
        return (link for pair, link in self.links.items() if region in pair)

    async def _listen(self, at: Address, to: Address, out: Link, back: Link) -> None:
        loop = asyncio.get_running_loop()

        def accepted() -> End:
            return _Accepted(self, to, out, back)

        self._servers.append(await loop.create_server(accepted, at.host, at.port))

    def accept(self, near: End, to: Address, out: Link, back: Link) -> None:
        """A connection came in over `out`."""
        self._ends.add(near)
        if out.fault.cut or back.fault.cut:
            near.abort()
            return
        task = asyncio.get_running_loop().create_task(self._carry(near, to, out, back))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def forget(self, end: End) -> None:
        """A connection's end is gone."""
        self._ends.discard(end)

    async def _carry(self, near: End, to: Address, out: Link, back: Link) -> None:
        loop = asyncio.get_running_loop()
        far = _Known(self)
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT):
                await loop.create_connection(lambda: far, to.host, to.port)
        except (OSError, TimeoutError):
            near.abort()
            return
        self._ends.add(far)
        if near.lost or out.fault.cut or back.fault.cut:
            near.abort()
            far.abort()
            return
        forth, home = Stream(out, near, far), Stream(back, far, near)
        near.join(forth, home)
        far.join(home, forth)


class _Known(End):
    """An end that the WAN can find at its close."""

    def __init__(self, wan: Wan) -> None:
        super().__init__()
        self._wan = wan

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._wan.forget(self)


class _Accepted(_Known):
    """The end that a region dialled."""

    def __init__(self, wan: Wan, to: Address, out: Link, back: Link) -> None:
        super().__init__(wan)
        self._way = (to, out, back)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._wan.accept(self, *self._way)
