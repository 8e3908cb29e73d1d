"""The state-of-the-world protocol (`StreamAggregatedResources`): all that was asked for, each time.

It is what gRPC's own clients speak. A response to a request for listeners or clusters is all there
is: what it lacks is gone. Of routes and endpoints nothing can be said to be gone; a client ceases
to ask for them.
"""

from __future__ import annotations

from dataclasses import dataclass

from mesh.xds.kinds import ROOTS
from mesh.xds.resources import Collection, Resource, digest
from mesh.xds.stream import EVERYTHING, UNKNOWN, OneType, Response, Stream


@dataclass(frozen=True)
class WholeRequest:
    """A `DiscoveryRequest`; `error` is the text of a NACK, None for an ACK."""

    type_url: str
    names: tuple[str, ...] = ()
    version: str = ""
    nonce: str = ""
    error: str | None = None


class WholeStream(Stream):
    """A stream of a gRPC client's, mostly."""

    def receive(self, request: WholeRequest, now_ms: int) -> None:
        """Takes a request. Raises `TooMuch`."""
        one, first = self._type(request.type_url)
        if not first and request.nonce != one.last_nonce:
            return  # about an older response than the last: what it asks for, the next repeats
        self._answer(one, request.nonce, request.error, now_ms)
        names = set(request.names) - {EVERYTHING}
        fresh = names - one.names
        everything = one.type_url in ROOTS and (
            EVERYTHING in request.names or (not names and (first or one.everything))
        )
        if everything and not one.everything:
            fresh |= set(one.target)
        one.names, one.everything = names, everything
        self._forget(one)
        if first and request.version == digest(self._wanted(one)):
            pass  # it has come back with all that it shall have
        else:
            one.urgent |= dict.fromkeys(sorted(fresh))
            one.behind |= {name: UNKNOWN for name in fresh if name in one.target}
            one.greeting = first and everything and not one.urgent
        self._check(len(one.names))
        self._settle(one)

    @staticmethod
    def _forget(one: OneType) -> None:
        for table in (one.behind, one.urgent, one.lingering):
            for name in [name for name in table if not one.asked(name)]:
                del table[name]

    @staticmethod
    def _wanted(one: OneType) -> list[Resource]:
        return [each for name, each in one.target.items() if one.asked(name)]

    def _compose(self, one: OneType, names: list[str], nonce: str, *, removing: bool) -> Response:
        one.in_flight.clear()  # this response takes the place of any before it
        for name in [name for name in one.behind if name in one.target]:
            del one.behind[name]
        one.urgent.clear()
        if removing:
            one.lingering.clear()
        resources = (*self._wanted(one), *one.lingering.values())
        return Response(one.type_url, digest(resources), nonce, resources)

    def _move(self, one: OneType, target: Collection) -> None:
        super()._move(one, target)
        if one.type_url not in ROOTS:
            for name in [name for name in one.behind if name not in one.target]:
                del one.behind[name]
                one.lingering.pop(name, None)
            self._settle(one)
