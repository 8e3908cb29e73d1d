"""For whom a call is made, through any number of services: what an edge signed goes along.

Who makes a call is its `Principal`, and the contract asks for that alone. The end principal, an
operator or a device, is for records and for decisions that a service makes itself.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc

from mesh.identity import end_principals, folder
from mesh.identity.end_principals import METADATA_KEY, EndPrincipal
from mesh.identity.errors import IdentityError
from mesh.runtime.context import current
from mesh.runtime.errors import Unauthenticated
from mesh.runtime.principal import Principal

_KEPT = 1024


class EndPrincipals:
    """Verifies what calls bring along; `identity` is the workload's identity folder.

    `clock` gives nanoseconds since 1970.
    """

    def __init__(self, identity: Path, trust_domain: str, clock: Callable[[], int]) -> None:
        self._identity = identity
        self._trust_domain = trust_domain
        self._clock = clock
        # A principal's value is the same for a minute; to verify it takes a millisecond.
        self._known: OrderedDict[bytes, EndPrincipal] = OrderedDict()

    def read(self, value: bytes, caller: Principal) -> EndPrincipal | None:
        """Whom the metadata of a call names; None if it has none. Raises `Unauthenticated`."""
        if not value:
            return None
        now = datetime.fromtimestamp(self._clock() / 1e9, UTC)
        try:
            found = self._known.get(value)
            if found is None or now >= found.until:
                roots = folder.read(self._identity).trust_pem
                found = end_principals.verify(value, self._trust_domain, roots, now)
                self._known[value] = found
                if len(self._known) > _KEPT:
                    self._known.popitem(last=False)
        except IdentityError as error:
            raise Unauthenticated(
                f"{METADATA_KEY}: {error}", reason="END_PRINCIPAL_REFUSED"
            ) from None
        if caller.kind != "workload" and caller.spiffe_id != found.identity.uri:
            raise Unauthenticated(
                f"{METADATA_KEY} is {found.identity.uri}'s, and {caller} calls",
                reason="END_PRINCIPAL_REFUSED",
            )
        return found


class OnBehalf(grpc.aio.UnaryUnaryClientInterceptor):
    """Passes the end principal of the current call on to those that the call makes itself."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock

    async def intercept_unary_unary(
        self,
        continuation: Callable[..., Any],
        client_call_details: grpc.aio.ClientCallDetails,
        request: Any,
    ) -> Any:
        """The call, with one line of metadata more if it is made for somebody."""
        details = client_call_details
        call = current.get(None)
        end = None if call is None else call.end
        if end is None or end.until.timestamp() * 1e9 <= self._clock():
            return await continuation(details, request)
        metadata = grpc.aio.Metadata(*(details.metadata or ()))
        metadata[METADATA_KEY] = end.value
        return await continuation(
            grpc.aio.ClientCallDetails(
                details.method,
                details.timeout,
                metadata,
                details.credentials,
                details.wait_for_ready,
            ),
            request,
        )
