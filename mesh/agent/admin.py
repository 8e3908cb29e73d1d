"""Envoy's admin interface over its Unix socket."""

from __future__ import annotations

import asyncio
from pathlib import Path

_ANSWER_WITHIN = 5.0


class AdminUnreachable(Exception):
    """Envoy's admin socket does not answer."""


async def ready(socket: Path) -> bool:
    """Whether Envoy has finished its start. Raises `AdminUnreachable`."""
    return (await _ask(socket, "GET", "/ready"))[0] == 200


async def post(socket: Path, path: str) -> int:
    """The status of a POST. Raises `AdminUnreachable`."""
    return (await _ask(socket, "POST", path))[0]


async def get(socket: Path, path: str) -> bytes:
    """The body of a page. Raises `AdminUnreachable`."""
    return (await _ask(socket, "GET", path))[1]


async def _ask(socket: Path, method: str, path: str) -> tuple[int, bytes]:
    # Envoy answers HTTP/1.0 with 426.
    request = (
        f"{method} {path} HTTP/1.1\r\nHost: admin\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )
    try:
        async with asyncio.timeout(_ANSWER_WITHIN):
            reader, writer = await asyncio.open_unix_connection(str(socket))
            try:
                writer.write(request.encode())
                head = await reader.readuntil(b"\r\n\r\n")
                body = await _body(reader, head.lower())
            finally:
                writer.close()
        return int(head.split(b" ", 2)[1]), body
    except (OSError, EOFError, TimeoutError, ValueError, IndexError) as error:
        raise AdminUnreachable(f"{socket} does not answer: {error!r}") from None


async def _body(reader: asyncio.StreamReader, head: bytes) -> bytes:
    if b"transfer-encoding: chunked" not in head:
        return await reader.read()
    body = bytearray()
    while size := int(await reader.readline(), 16):
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    return bytes(body)
