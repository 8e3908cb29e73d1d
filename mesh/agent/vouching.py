"""An edge's agent signs whom the edge let in: see `mesh.identity.end_principals`.

Its Envoy asks once a minute for each principal that calls, over a Unix socket that only its user
can reach, and keeps the answer (`mesh.envoy.vouching`). So what is asked here has been
authenticated by the Envoy that asks.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import grpc
import structlog

from mesh import envoy
from mesh.identity import end_principals, folder, spiffe
from mesh.identity.errors import IdentityError
from mesh.identity.spiffe import WorkloadId

_log = structlog.get_logger(__name__)


class Vouching:
    """Answers an edge's Envoy; `identity` is the edge's identity folder."""

    def __init__(self, socket: Path, identity: Path, now: Callable[[], datetime]) -> None:
        self._socket = socket
        self._identity = identity
        self._now = now
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        """Listens."""
        _, service, method = envoy.VOUCH.split("/")
        handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(
            self._vouch
        )
        self._socket.unlink(missing_ok=True)
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, {method: handler}),)
        )
        self._server.add_insecure_port(f"unix:{self._socket}")
        await self._server.start()

    async def stop(self) -> None:
        """Ends at once."""
        server, self._server = self._server, None
        if server is not None:
            await server.stop(None)

    async def _vouch(self, request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        try:
            identity = spiffe.parse(request.decode())
            if isinstance(identity, WorkloadId):
                raise IdentityError(f"{identity.uri} does not come by an edge")
            held = folder.read(self._identity)
        except (IdentityError, UnicodeDecodeError) as error:
            _log.warning("not vouched for", asked=request[:256], error=str(error))
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        signed = end_principals.state(held, identity, self._now())
        # As metadata has it: base64 without padding.
        return base64.b64encode(signed).rstrip(b"=")
