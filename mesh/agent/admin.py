"""Envoy's admin interface over its Unix socket."""

from __future__ import annotations

import asyncio
from pathlib import Path

_ANSWER_WITHIN = 5.0


class AdminUnreachable(Exception):
    """Envoy's admin socket does not answer."""


async def get(socket: Path, path: str) -> tuple[int, str]:
    """Status and body of a GET. Raises `AdminUnreachable`."""
    return await _ask(socket, "GET", path)


async def post(socket: Path, path: str) -> tuple[int, str]:
    """Status and body of a POST. Raises `AdminUnreachable`."""
    return await _ask(socket, "POST", path)


async def _ask(socket: Path, method: str, path: str) -> tuple[int, str]:
    request = f"{method} {path} HTTP/1.0\r\nHost: admin\r\nContent-Length: 0\r\n\r\n"
    try:
        async with asyncio.timeout(_ANSWER_WITHIN):
            reader, writer = await asyncio.open_unix_connection(str(socket))
            try:
                writer.write(request.encode())
                answer = await reader.read()
            finally:
                writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split(b" ", 2)[1]), body.decode(errors="replace")
    except (OSError, TimeoutError, ValueError, IndexError) as error:
        raise AdminUnreachable(f"{socket} does not answer: {error!r}") from None
