"""Envoy's admin interface over its Unix socket."""

from __future__ import annotations

import asyncio
from pathlib import Path

_ANSWER_WITHIN = 5.0


class AdminUnreachable(Exception):
    """Envoy's admin socket does not answer."""


async def ready(socket: Path) -> bool:
    """Whether Envoy has finished its start. Raises `AdminUnreachable`."""
    return await _status(socket, "GET", "/ready") == 200


async def post(socket: Path, path: str) -> int:
    """The status of a POST. Raises `AdminUnreachable`."""
    return await _status(socket, "POST", path)


async def _status(socket: Path, method: str, path: str) -> int:
    # Envoy answers HTTP/1.0 with 426.
    request = (
        f"{method} {path} HTTP/1.1\r\nHost: admin\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )
    try:
        async with asyncio.timeout(_ANSWER_WITHIN):
            reader, writer = await asyncio.open_unix_connection(str(socket))
            try:
                writer.write(request.encode())
                line = await reader.readline()
            finally:
                writer.close()
        return int(line.split(b" ", 2)[1])
    except (OSError, TimeoutError, ValueError, IndexError) as error:
        raise AdminUnreachable(f"{socket} does not answer: {error!r}") from None
