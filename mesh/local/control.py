"""The supervisor's control socket: one JSON object a line, a request and its answer.

A request is ``{"do": NAME, ...arguments}``; an answer ``{"ok": true, "result": ...}`` or
``{"ok": false, "error": SENTENCE, "kind": CLASS}``, the class one of `mesh.local.errors`. The
socket has mode 0600 in a folder of mode 0700.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from mesh.local import errors
from mesh.local.errors import BadRequest, LocalError, NotUp

Handler = Callable[..., Awaitable[Any]]
_LINE_LIMIT = 1 << 20


class ControlServer:
    """Answers requests with `handlers`, by name; arguments are passed by keyword."""

    def __init__(self, path: Path, handlers: Mapping[str, Handler]) -> None:
        self._path = path
        self._handlers = handlers
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listens, in place of a socket that a killed supervisor left. Needs `up.lock`."""
        self._path.unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            self._server = await asyncio.start_unix_server(
                self._accepted, str(self._path), limit=_LINE_LIMIT
            )
        finally:
            os.umask(before)

    async def close(self) -> None:
        """Stops answering; answers under way are finished first, for a second at most."""
        if self._server is None:
            return
        self._server.close()
        self._path.unlink(missing_ok=True)
        if self._connections:
            _, late = await asyncio.wait(self._connections, timeout=1.0)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await self._server.wait_closed()
        self._server = None

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(json.dumps(await self._answer(line)).encode() + b"\n")
                await writer.drain()
        except (OSError, ValueError):
            pass  # the client went away, or its line was beyond the limit
        finally:
            writer.close()

    async def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
            name = request.pop("do")
            handler = self._handlers[name]
        except (ValueError, AttributeError, TypeError, KeyError):
            known = ", ".join(sorted(self._handlers))
            kind = BadRequest.__name__
            return {
                "ok": False,
                "kind": kind,
                "error": f'write {{"do": NAME}} with NAME one of {known}',
            }
        try:
            return {"ok": True, "result": await handler(**request)}
        except LocalError as error:
            return {"ok": False, "kind": type(error).__name__, "error": str(error)}
        except TypeError as error:
            return {"ok": False, "kind": BadRequest.__name__, "error": str(error)}
        except Exception as error:
            # Whatever broke, the client is told; a closed connection would say "not up".
            text = f"{name}: {type(error).__name__}: {error}"
            return {"ok": False, "kind": LocalError.__name__, "error": text}


def _require_own(writer: asyncio.StreamWriter, path: Path) -> None:
    """Raises `NotUp` if another user listens there, as one can who made the folder first."""
    credentials = writer.get_extra_info("socket").getsockopt(
        socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")
    )
    _, user, _ = struct.unpack("3i", credentials)
    if user != os.getuid():
        raise NotUp(
            f"{path} belongs to user {user}, not to you: run this as the user whose mesh it is, "
            "or remove its folder"
        )


class ControlClient:
    """Asks the supervisor behind a control socket."""

    def __init__(self, path: Path) -> None:
        self.path = path

    async def ask(self, do: str, *, within: float = 30.0, **arguments: Any) -> Any:
        """One request. Raises `NotUp` if nobody listens, else what the supervisor raised."""
        try:
            async with asyncio.timeout(within):
                reader, writer = await asyncio.open_unix_connection(
                    str(self.path), limit=_LINE_LIMIT
                )
                try:
                    _require_own(writer, self.path)
                    writer.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
                    await writer.drain()
                    line = await reader.readline()
                finally:
                    writer.close()
        except TimeoutError:
            raise NotUp(
                f"the supervisor behind {self.path} did not answer within {within:.0f} s"
            ) from None
        except OSError:
            line = b""
        if not line:
            raise NotUp("this mesh is not up: start it with `isthmus up`")
        answer = json.loads(line)
        if not answer["ok"]:
            raise getattr(errors, answer.get("kind", ""), BadRequest)(answer["error"])
        return answer["result"]
