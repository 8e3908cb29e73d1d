"""Calls of an operator to a service, whichever edge answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from mesh.cli.session import run, session

DEADLINE = 8.0
"""Seconds; the contract's own deadlines are shorter."""


@dataclass(frozen=True)
class Calls:
    """Calls to the service of `stub`, at `region`'s edge first; with `only` at no other."""

    mesh: Path
    region: str
    stub: Callable[[grpc.aio.Channel], Any]
    only: bool = False

    def read(self, method: str, request: Any) -> Any:
        """The reply to a call without side effects."""

        async def call() -> Any:
            async with session(self.mesh, self.region, only=self.only) as opened:
                return await opened.read(lambda channel: self._invoke(channel, method, request))

        return run(call())

    def write(self, method: str, request: Any) -> Any:
        """The reply to a mutation; sets `request_id`, so that repeats have one effect."""

        async def call() -> Any:
            def invoke(channel: grpc.aio.Channel, request_id: str) -> Any:
                request.request_id = request_id
                return self._invoke(channel, method, request)

            async with session(self.mesh, self.region, only=self.only) as opened:
                return await opened.write(invoke)

        return run(call())

    def pages(self, method: str, request: Any) -> list[Any]:
        """Every page of a list."""

        async def call() -> list[Any]:
            replies: list[Any] = []
            async with session(self.mesh, self.region, only=self.only) as opened:
                while True:
                    reply = await opened.read(
                        lambda channel: self._invoke(channel, method, request)
                    )
                    replies.append(reply)
                    if not reply.next_page_token:
                        return replies
                    request.page_token = reply.next_page_token

        return run(call())

    def _invoke(self, channel: grpc.aio.Channel, method: str, request: Any) -> Any:
        return getattr(self.stub(channel), method)(request, timeout=DEADLINE)
