"""The media origin: a small read-only HTTP/1.1 server for playlists and segments.

Players and `isthmus demo` fetch `http://<origin>/<channel>/live.m3u8` from it. It serves files
below one folder and nothing else: no listings, no hidden files, no links that lead out.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mesh.topology import Address

_TYPES = {
    ".m3u8": "application/vnd.apple.mpegurl",
    ".ts": "video/mp2t",
    ".m4s": "video/iso.segment",
    ".mp4": "video/mp4",
    ".json": "application/json",
}
_IDLE = 30.0
_CHUNK = 1 << 16
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")


class Origin:
    """Serves the files below `folder`."""

    def __init__(self, folder: Path, address: Address) -> None:
        self._folder = folder.resolve()
        self._address = address
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listens. Raises `OSError` if the address cannot be bound."""
        self._server = await asyncio.start_server(
            self._accepted, self._address.host, self._address.port, limit=16384
        )

    async def close(self) -> None:
        """Stops, and ends every connection."""
        if self._server is None:
            return
        self._server.close()
        for task in tuple(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()
        self._server = None

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                async with asyncio.timeout(_IDLE):
                    head = await reader.readuntil(b"\r\n\r\n")
                if not await self._answer(head.decode("latin-1"), writer):
                    return
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # the client went away, said nothing for long, or sent no HTTP
        finally:
            writer.close()

    async def _answer(self, head: str, writer: asyncio.StreamWriter) -> bool:
        """Answers one request; returns whether the connection may carry another."""
        lines = head.split("\r\n")
        method, _, rest = lines[0].partition(" ")
        target, _, version = rest.partition(" ")
        headers = {
            name.strip().lower(): value.strip()
            for name, colon, value in (line.partition(":") for line in lines[1:])
            if colon
        }
        has_body = "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
        keep = (
            version == "HTTP/1.1"
            and not has_body
            and headers.get("connection", "").lower() != "close"
        )
        reply = self._reply(method, target, headers.get("range"))
        await reply.send(writer, body=method != "HEAD", keep=keep)
        return keep

    def _reply(self, method: str, target: str, asked_range: str | None) -> _Reply:
        if method not in ("GET", "HEAD"):
            return _Reply(HTTPStatus.METHOD_NOT_ALLOWED, extra=(("Allow", "GET, HEAD"),))
        path = self.find(target)
        if path is None:
            return _Reply(HTTPStatus.NOT_FOUND)
        try:
            # Read at once: a playlist is replaced by rename, a segment is small.
            content = path.read_bytes()
        except OSError:
            return _Reply(HTTPStatus.NOT_FOUND)
        # A live playlist is news each second; a segment's name stands for one content for ever.
        age = "no-cache, no-store" if path.suffix == ".m3u8" else "public, max-age=60"
        extra = (("Cache-Control", age), ("Accept-Ranges", "bytes"))
        kind = _TYPES.get(path.suffix, "application/octet-stream")
        if asked_range is not None and (found := _RANGE.fullmatch(asked_range)):
            return _partial(content, found, kind, extra)
        return _Reply(HTTPStatus.OK, content, kind, extra)

    def find(self, target: str) -> Path | None:
        """The file that a request's target names; None for anything outside the folder."""
        try:
            parts = unquote(urlsplit(target).path, errors="strict").split("/")[1:]
        except ValueError:
            return None
        if not parts or any(part.startswith(".") or not part or "\0" in part for part in parts):
            return None
        try:
            path = self._folder.joinpath(*parts).resolve(strict=True)
        except (OSError, RuntimeError):
            return None
        return path if path.is_relative_to(self._folder) and path.is_file() else None


@dataclass(frozen=True)
class _Reply:
    status: HTTPStatus
    content: bytes = b""
    kind: str = "text/plain; charset=utf-8"
    extra: tuple[tuple[str, str], ...] = ()

    async def send(self, writer: asyncio.StreamWriter, *, body: bool, keep: bool) -> None:
        content = self.content
        if not content and self.status >= HTTPStatus.BAD_REQUEST:
            content = f"{self.status.value} {self.status.phrase}\n".encode()
        lines = [
            f"HTTP/1.1 {self.status.value} {self.status.phrase}",
            f"Content-Type: {self.kind}",
            f"Content-Length: {len(content)}",
            "X-Content-Type-Options: nosniff",
            # Players run in browsers, on pages of another origin.
            "Access-Control-Allow-Origin: *",
            f"Connection: {'keep-alive' if keep else 'close'}",
            *(f"{name}: {value}" for name, value in self.extra),
        ]
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
        if body:
            for at in range(0, len(content), _CHUNK):
                writer.write(content[at : at + _CHUNK])
                await writer.drain()
        await writer.drain()


def _partial(
    content: bytes, asked: re.Match[str], kind: str, extra: tuple[tuple[str, str], ...]
) -> _Reply:
    """A byte range (RFC 9110, 14): one range, first-last, first-, or -suffix."""
    size = len(content)
    first, last = asked[1], asked[2]
    if first:
        start, end = int(first), min(int(last), size - 1) if last else size - 1
    else:
        start, end = max(0, size - int(last or 0)), size - 1
    if start > end or start >= size:
        return _Reply(
            HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
            extra=(("Content-Range", f"bytes */{size}"),),
        )
    return _Reply(
        HTTPStatus.PARTIAL_CONTENT,
        content[start : end + 1],
        kind,
        (*extra, ("Content-Range", f"bytes {start}-{end}/{size}")),
    )
