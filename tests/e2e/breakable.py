"""What stands between two processes and can break under a call: connections reset, not closed."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path

from mesh.topology import Address

_Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
_RESET = struct.pack("ii", 1, 0)  # linger for no time: close with RST, whatever was not sent yet


class Breakable:
    """Passes bytes on to another listener until its connections are reset."""

    def __init__(self, dial: Callable[[], Awaitable[_Streams]]) -> None:
        self._dial = dial
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    @classmethod
    async def tcp(cls, address: Address, to: Address) -> Breakable:
        """Between two sidecars."""
        made = cls(lambda: asyncio.open_connection(to.host, to.port))
        made._server = await asyncio.start_server(made._serve, address.host, address.port)
        return made

    @classmethod
    async def unix(cls, path: Path, to: Path) -> Breakable:
        """Between a sidecar and its application."""
        made = cls(lambda: asyncio.open_unix_connection(to))
        made._server = await asyncio.start_unix_server(made._serve, path)
        return made

    def reset(self) -> None:
        """Ends every connection at once; new ones are taken."""
        for writer in tuple(self._open):
            transport = writer.transport
            if (peer := transport.get_extra_info("socket")).family == socket.AF_INET:
                with contextlib.suppress(OSError):  # the other side was faster
                    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            transport.abort()

    async def close(self) -> None:
        """Listens no more."""
        if self._server is not None:
            self._server.close()
        self.reset()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far, near = await self._dial()
        except OSError:
            writer.transport.abort()
            return
        self._open |= {writer, near}
        try:
            await asyncio.gather(self._pass(reader, near), self._pass(far, writer))
        finally:
            for each in (writer, near):
                self._open.discard(each)
                each.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.transport.abort()  # one side ended: so does the other
