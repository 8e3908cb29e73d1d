"""The incremental protocol (`DeltaAggregatedResources`): only what differs is sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mesh.xds.kinds import ENDPOINTS
from mesh.xds.stream import ABSENT, EVERYTHING, UNKNOWN, OneType, Response, Stream


@dataclass(frozen=True)
class DeltaRequest:
    """A `DeltaDiscoveryRequest`; `error` is the text of a NACK, None for an ACK.

    `held` (`initial_resource_versions`) is what the client already has, in the first request of a
    type on a stream.
    """

    type_url: str
    subscribe: tuple[str, ...] = ()
    unsubscribe: tuple[str, ...] = ()
    held: Mapping[str, str] = field(default_factory=dict)
    nonce: str = ""
    error: str | None = None


class DeltaStream(Stream):
    """A stream of Envoy's, mostly."""

    def receive(self, request: DeltaRequest, now_ms: int) -> None:
        """Takes a request. Raises `TooMuch`."""
        one, first = self._type(request.type_url)
        if request.nonce:
            self._answer(one, request.nonce, request.error, now_ms)
        if first:
            self._begin(one, request)
        else:
            for name in request.unsubscribe:
                self._unsubscribe(one, name)
            for name in request.subscribe:
                self._subscribe(one, name)
        if one.type_url == ENDPOINTS:
            self._press_due()  # it says that it has them, on a new stream: they come again
        self._check(len(one.names) + len(request.held))
        self._settle(one)

    def _begin(self, one: OneType, request: DeltaRequest) -> None:
        one.names = {one.known(name) for name in request.subscribe if name != EVERYTHING}
        one.everything = not request.subscribe or EVERYTHING in request.subscribe
        held = request.held
        for name in one.target if one.everything else ():
            self._compare(one, name, held)
        for name in request.subscribe:
            if name == EVERYTHING:
                continue
            self._compare(one, name, held)
            if name not in one.target and name not in held:
                one.urgent[name] = None  # it does not exist, and the client waits to hear that
        for name, version in held.items():
            if name not in one.target and one.asked(name):
                one.behind[name] = version
        # A client that waits for the first word of a type gets one, were it empty.
        one.greeting = one.everything and not held and not one.behind

    @staticmethod
    def _compare(one: OneType, name: str, held: Mapping[str, str]) -> None:
        wanted, has = one.target.get(name), held.get(name, ABSENT)
        if wanted is None or has == wanted.version:
            return
        one.behind[name] = has
        if has == ABSENT:
            one.urgent[name] = None

    @staticmethod
    def _unsubscribe(one: OneType, name: str) -> None:
        if name == EVERYTHING:
            one.everything = False
            for other in [other for other in one.behind if other not in one.names]:
                del one.behind[other]
                one.urgent.pop(other, None)
            return
        one.names.discard(name)
        if one.everything:
            one.urgent[name] = None  # it stays, as one of all: the client is told what it is
        else:
            one.behind.pop(name, None)
            one.urgent.pop(name, None)

    @staticmethod
    def _subscribe(one: OneType, name: str) -> None:
        """Answered even if the client should have it: it may ask because it has forgotten."""
        if name != EVERYTHING:
            one.names.add(one.known(name))
            one.urgent[name] = None
        elif not one.everything:
            one.everything = True
            for other in one.target:
                if other not in one.names:
                    one.behind[other] = UNKNOWN
                    one.urgent[other] = None
            one.greeting = not one.urgent

    def _compose(self, one: OneType, names: list[str], nonce: str, *, removing: bool) -> Response:
        return Response(
            one.type_url,
            one.target.version,
            nonce,
            tuple(one.target[name] for name in names if name in one.target),
            tuple(name for name in names if name not in one.target),
        )
