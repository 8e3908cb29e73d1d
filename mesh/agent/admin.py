"""Envoy's admin interface over its Unix socket."""

from __future__ import annotations

import asyncio
import codecs
import json
from collections.abc import AsyncIterator
from pathlib import Path

_ANSWER_WITHIN = 5.0
_FROM_OUTSIDE = (["inbound"], ["edge"], ["enrolment"])


class AdminUnreachable(Exception):
    """Envoy's admin socket does not answer."""


async def ready(socket: Path, epoch: int | None = None) -> bool:
    """Whether Envoy has finished its start. Raises `AdminUnreachable`.

    Of those that take over from one another, the one before answers at the same socket until the
    next one does: `epoch` says which one is asked for.
    """
    page = await get(socket, "/server_info")
    try:
        info = json.loads(page)
        here = int(info["command_line_options"].get("restart_epoch", 0))
        return epoch in (None, here) and info["state"] == "LIVE"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise AdminUnreachable(f"{socket} does not say how Envoy stands: {error!r}") from None


async def in_flight(socket: Path) -> int:
    """How many calls from outside it has not answered yet. Raises `AdminUnreachable`."""
    page = (await get(socket, "/stats?filter=downstream_rq_active&format=text")).decode()
    lines = (line.rpartition(": ") for line in page.splitlines())
    return sum(int(value) for name, _, value in lines if name.split(".")[1:2] in _FROM_OUTSIDE)


async def post(socket: Path, path: str) -> int:
    """The status of a POST. Raises `AdminUnreachable`."""
    return (await _ask(socket, "POST", path))[0]


async def get(socket: Path, path: str) -> bytes:
    """The body of a page. Raises `AdminUnreachable`."""
    return (await _ask(socket, "GET", path))[1]


async def stream(socket: Path, path: str, body: str) -> AsyncIterator[str]:
    """What a POST is answered, piece by piece, until Envoy or the reader ends it.

    Raises `AdminUnreachable`, also if it is refused.
    """
    request = f"POST {path} HTTP/1.1\r\nHost: admin\r\nContent-Length: {len(body.encode())}\r\n\r\n"
    try:
        reader, writer = await asyncio.open_unix_connection(str(socket))
        try:
            writer.write((request + body).encode())
            async with asyncio.timeout(_ANSWER_WITHIN):
                head = await reader.readuntil(b"\r\n\r\n")
            if int(head.split(b" ", 2)[1]) != 200:
                raise ValueError(head.split(b"\r\n", 1)[0].decode())
            decoder = codecs.getincrementaldecoder("utf-8")("replace")
            async for piece in _chunks(reader):
                yield decoder.decode(piece)
        finally:
            writer.close()
    except (OSError, EOFError, TimeoutError, ValueError, IndexError) as error:
        raise AdminUnreachable(f"{socket} does not answer: {error!r}") from None


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
    return b"".join([piece async for piece in _chunks(reader)])


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while size := int(await reader.readline(), 16):
        yield await reader.readexactly(size)
        await reader.readexactly(2)
