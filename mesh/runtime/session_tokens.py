"""The client's side of a session: it carries a token whose inside is not its business.

It also says of a request with an id that it was sent before, through whichever edge.

Tokens are Protobuf messages that merge when they are put one after the other, so nothing has to be
read to keep what several responses say.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

from mesh.runtime.attempts import Attempts

METADATA_KEY = "isthmus-token-bin"


class SessionTokens(grpc.aio.UnaryUnaryClientInterceptor):
    """Carries a client's token from its responses to its requests. One object is one session."""

    def __init__(self) -> None:
        self.token = b""
        self._attempts = Attempts()

    async def intercept_unary_unary(
        self,
        continuation: Callable[..., Any],
        client_call_details: grpc.aio.ClientCallDetails,
        request: Any,
    ) -> Any:
        """Sends what was seen, and takes note of what the response has seen."""
        sent = self.token
        details = client_call_details
        again = self._attempts.sending(request)
        if sent or again:
            metadata = grpc.aio.Metadata(*(details.metadata or ()))
            if sent:
                metadata.add(METADATA_KEY, sent)
            if again:
                metadata.add(*again)
            details = grpc.aio.ClientCallDetails(
                details.method,
                details.timeout,
                metadata,
                details.credentials,
                details.wait_for_ready,
            )
        call = await continuation(details, request)
        for key, value in await call.trailing_metadata() or ():
            if key == METADATA_KEY:
                self.take(value, sent)
        return call

    def take(self, token: bytes, sent: bytes) -> None:
        """A response to a request that carried `sent` came with `token`.

        It stands for what was sent as well and replaces it, unless another one came meanwhile.
        """
        self.token = token if self.token is sent else self.token + token
