"""What goes over sockets and lies on disks, searched for a value that must not be there."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def forms(value: bytes) -> Iterator[tuple[str, bytes]]:
    """A value of some length as it may hide in other bytes, by the name of the form."""
    for name, found in (("the value", value), ("its SHA-256", hashlib.sha256(value).digest())):
        yield name, found
        yield f"{name} in hex", found.hex().encode()
        yield f"{name} in hex, upper case", found.hex().upper().encode()
        for shift in range(3):  # wherever in the encoded bytes it begins
            for encode in (base64.b64encode, base64.urlsafe_b64encode):
                inner = encode(bytes(shift) + found)[4 if shift else 0 :]
                yield f"{name} in base64", inner[: len(inner) // 4 * 4 - 4]


def found_in(data: bytes, value: bytes) -> list[str]:
    """The forms of a value that are in some bytes."""
    return [name for name, form in forms(value) if form in data]


def files(folder: Path) -> bytes:
    """The bytes of all files below a folder: databases and their write-ahead logs."""
    return b"\0".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


class Wire:
    """A Unix socket that passes everything on to another, and keeps a copy."""

    def __init__(self, socket: Path, to: Path) -> None:
        self.copy = bytearray()
        self._socket = socket
        self._to = to
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listens."""
        self._server = await asyncio.start_unix_server(self._serve, self._socket)

    async def stop(self) -> None:
        """Ends all connections."""
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with suppress(OSError):
                far, near = await asyncio.open_unix_connection(self._to)
                try:
                    both = (self._pass(reader, near), self._pass(far, writer))
                    await asyncio.gather(*both)
                finally:
                    near.close()
        except asyncio.CancelledError:
            pass  # `stop`; asyncio would report it as a failure of the connection
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            self.copy += data
            writer.write(data)
            await writer.drain()
        writer.close()
