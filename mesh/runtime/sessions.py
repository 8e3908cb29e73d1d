"""Sessions across regions: the tokens that calls bring and take along.

A response carries what its caller has now seen of the instance's group; the client sends it with
its next request, in whatever region that is answered. A method whose contract says
CONSISTENCY_SESSION waits until its region has all of it.
"""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf.message import Message

from mesh.contracts.model import Consistency
from mesh.replication import Group, TokenDamaged, tokens
from mesh.replication.tokens import Token
from mesh.runtime.authorization import Rule
from mesh.runtime.errors import InvalidArgument
from mesh.runtime.session_tokens import METADATA_KEY


class Sessions:
    """What an instance does with tokens; `open` names its group, if it has one."""

    def __init__(self) -> None:
        self._group: Group | None = None

    def open(self, group: Group) -> None:
        """From now on calls are about this group."""
        self._group = group

    async def enter(self, rule: Rule, token: bytes, deadline: float | None) -> Token:
        """Waits for what the caller has seen, if the method promises so. Returns it.

        Raises `InvalidArgument`, and `NotYetHere` at `deadline`.
        """
        if self._group is None or not token:
            return {}
        try:
            seen = tokens.decode(token)
        except TokenDamaged as error:
            raise InvalidArgument(f"{METADATA_KEY}: {error}", reason="TOKEN_DAMAGED") from None
        if rule.consistency is Consistency.SESSION:
            await self._group.wait_for(seen.get(self._group.name, {}), deadline)
        return seen

    def check_home(self, rule: Rule, request: Message) -> None:
        """Raises `NotHome` if the method belongs in the home of an entity, and that is elsewhere.

        An entity that is not there yet has its home where it is created.
        """
        if self._group is not None and rule.entity:
            self._group.check_home(rule.entity, getattr(request, rule.key))

    def leave(self, context: grpc.aio.ServicerContext[Any, Any], seen: Token) -> None:
        """Gives the caller what it has seen by now: here, and what it brought along."""
        if self._group is None:
            return
        name = self._group.name
        here = self._group.seen() | self._group.unseen(seen.get(name, {}))
        token = tokens.encode({**seen, name: here})
        context.set_trailing_metadata(((METADATA_KEY, token),))
