"""One client's stream: what it asked for, what it has, what it is sent next. No I/O.

`receive` takes a request, `retarget` another snapshot, and `poll` gives the next response or None.
So a client that reads slowly gets the latest there is, not each step on the way to it.

- Each type has at most one response under way, except for what the client asks for by name, which
  is answered at once, behind what it may point at: a client that waits for it may not acknowledge
  anything else before.
- A type waits until those before it are acknowledged; removals wait until all else is, and go out
  the other way round. So what is rejected holds back what depends on it, and nothing is removed
  that the client may still use.
- What was rejected is not sent again before there is something else to send of its type.
- An endpoint assignment goes out again right behind its cluster, changed or not: Envoy waits for it
  before it takes the cluster, and does not ask.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from mesh.xds.kinds import CLUSTER, ENDPOINTS, ORDER, ROOTS
from mesh.xds.resources import Collection, Resource, Snapshot

EVERYTHING = "*"
MOST_NAMES = 65536
MOST_TYPES = 32

# What a client has of a resource, if not the version that it shall have.
ABSENT = ""
UNKNOWN = "?"
"""It was sent a version and rejected the response: parts of it may have been taken."""


class TooMuch(Exception):
    """A client asks for more names or types than a sidecar can have a use for."""


@dataclass(frozen=True)
class Rejection:
    """A NACK: when (milliseconds since 1970), of which version of the type, in whose words."""

    version: str
    time_ms: int
    text: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class Response:
    """One response: the resources that it carries, and names that are gone (delta alone)."""

    type_url: str
    version: str
    nonce: str
    resources: tuple[Resource, ...]
    removed: tuple[str, ...] = ()


@dataclass(frozen=True)
class TypeView:
    """How a type stands at a client; versions are those of `Collection`, empty if none."""

    type_url: str
    sent: str
    acknowledged: str
    rejection: Rejection | None


@dataclass
class OneType:
    """One type of one stream.

    The client is taken to have what `target` says of each name that it asked for, except for those
    in `behind`, which says what it has instead.
    """

    type_url: str
    target: Collection
    everything: bool = False
    names: set[str] = field(default_factory=set)
    behind: dict[str, str] = field(default_factory=dict)
    urgent: dict[str, None] = field(default_factory=dict)
    greeting: bool = False
    in_flight: dict[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    lingering: dict[str, Resource] = field(default_factory=dict)
    rejected: str | None = None
    rejection: Rejection | None = None
    last_nonce: str = ""
    sent: str = ""
    acknowledged: str = ""

    def asked(self, name: str) -> bool:
        """Whether the client wants this name."""
        return self.everything or name in self.names

    def known(self, name: str) -> str:
        """The name as the target has it, so that a thousand streams keep one string."""
        found = self.target.get(name)
        return name if found is None else found.name

    @property
    def blocked(self) -> bool:
        """Whether the client lacks some of this very target because it has rejected it."""
        return bool(self.behind) and self.rejected == self.target.version

    @property
    def settled(self) -> bool:
        """Whether the client has acknowledged all that it shall have."""
        return not (self.in_flight or self.behind or self.urgent or self.greeting)


class Stream(ABC):
    """What both protocols share; `receive` and the form of a response are theirs."""

    def __init__(self, target: Snapshot) -> None:
        self._target = target
        self._types: dict[str, OneType] = {}
        self._nonces = 0
        # Endpoints to send since their clusters have been sent.
        self._due: set[str] = set()

    @property
    def target(self) -> Snapshot:
        """What the client shall have."""
        return self._target

    @property
    def acknowledged(self) -> bool:
        """Whether the client has said that it has all of `target` that it can have a use for."""
        return (
            bool(self._types)
            and all(one.settled for one in self._types.values())
            and all(self._has_asked_for_what_it_needs(one) for one in self._types.values())
            and self._has_asked_for_roots()
        )

    @property
    def rejection(self) -> Rejection | None:
        """Why the client does not take `target`, if it has rejected some of it."""
        return next((one.rejection for one in self._types.values() if one.blocked), None)

    def views(self) -> tuple[TypeView, ...]:
        """How each type stands that the client asked for."""
        return tuple(
            TypeView(one.type_url, one.sent, one.acknowledged, one.rejection)
            for one in self._types.values()
        )

    def retarget(self, target: Snapshot) -> None:
        """From now on the client shall have this."""
        self._target = target
        for one in self._types.values():
            self._move(one, target[one.type_url])

    def poll(self) -> Response | None:
        """The next response, to be sent before `poll` is asked again; None to wait."""
        pressing = any(one.urgent or one.greeting for one in self._types.values())
        for one in self._in_order():
            if pressing and (one.urgent or one.greeting):
                one.greeting = False
                return self._send(one, list(one.urgent))
            if not pressing and (one.in_flight or one.blocked):
                return None
            additions = [name for name in one.behind if name in one.target]
            if additions and not one.blocked:
                return self._send(one, additions)
        for one in reversed(list(self._in_order())):
            if one.behind:  # removals alone are left
                return self._send(one, list(one.behind), removing=True)
        return None

    @abstractmethod
    def receive(self, request: Any, now_ms: int) -> None:
        """Takes a request of the protocol. Raises `TooMuch`."""

    @abstractmethod
    def _compose(self, one: OneType, names: list[str], nonce: str, *, removing: bool) -> Response:
        """The response that brings the client these names."""

    def _send(self, one: OneType, names: list[str], *, removing: bool = False) -> Response:
        self._nonces += 1
        for name in names:
            one.behind.pop(name, None)
            one.urgent.pop(name, None)
        response = self._compose(one, names, str(self._nonces), removing=removing)
        told = dict.fromkeys((*names, *(each.name for each in response.resources)))
        one.in_flight[response.nonce] = (one.target.version, tuple(told))
        one.last_nonce = response.nonce
        one.sent = one.target.version
        if one.type_url == CLUSTER:
            self._due |= {
                name
                for cluster in response.resources
                for type_url, name in cluster.needs
                if type_url == ENDPOINTS
            }
            self._press_due()
        elif one.type_url == ENDPOINTS:
            self._due -= told.keys()
        return response

    def _press_due(self) -> None:
        """Puts endpoints ahead whose clusters have gone out, as far as they are asked for."""
        one = self._types.get(ENDPOINTS)
        if one is not None:
            one.urgent |= {name: None for name in sorted(self._due) if one.asked(name)}

    def _type(self, type_url: str) -> tuple[OneType, bool]:
        """The state of a type, and whether this is the first word about it."""
        found = self._types.get(type_url)
        if found is not None:
            return found, False
        if len(self._types) >= MOST_TYPES:
            raise TooMuch(f"a stream may ask for {MOST_TYPES} types of resources at most")
        found = self._types[type_url] = OneType(type_url, self._target[type_url])
        return found, True

    def _answer(self, one: OneType, nonce: str, error: str | None, now_ms: int) -> None:
        """The client's verdict on a response; `error` is None for an ACK."""
        found = one.in_flight.pop(nonce, None)
        if found is None:
            return
        version, names = found
        if error is not None:
            one.rejected = version
            one.rejection = Rejection(version, now_ms, error, names)
            one.behind |= {name: UNKNOWN for name in names if one.asked(name)}

    def _settle(self, one: OneType) -> None:
        if one.settled:
            one.rejected = None
            one.sent = one.acknowledged = one.target.version

    def _move(self, one: OneType, target: Collection) -> None:
        before = one.target
        if target is before:
            return
        one.target = target
        if target.version == before.version:
            return
        changes = target.changes_since(before)
        for name in (*changes.changed, *changes.removed):
            if not one.asked(name):
                continue
            old = before.get(name)
            has = one.behind.get(name, old.version if old is not None else ABSENT)
            new = target.get(name)
            if has == (new.version if new is not None else ABSENT):
                one.behind.pop(name, None)
                one.lingering.pop(name, None)
            else:
                one.behind[name] = has
                if new is None and old is not None and has not in (ABSENT, UNKNOWN):
                    one.lingering[name] = old
                else:
                    one.lingering.pop(name, None)
        self._settle(one)

    def _in_order(self) -> Iterator[OneType]:
        for type_url in ORDER:
            if type_url in self._types:
                yield self._types[type_url]
        for type_url, one in self._types.items():
            if type_url not in ORDER:
                yield one

    def _has_asked_for_what_it_needs(self, one: OneType) -> bool:
        if one.everything:
            for type_url, names in one.target.needs.items():
                other = self._types.get(type_url)
                if other is None or not (other.everything or names <= other.names):
                    return False
            return True
        if not one.target.needs:
            return True
        found = [one.target[name] for name in one.names if name in one.target]
        return all(
            type_url in self._types and self._types[type_url].asked(name)
            for each in found
            for type_url, name in each.needs
        )

    def _has_asked_for_roots(self) -> bool:
        # A sidecar asks for all clusters first, and for listeners once it has them.
        return not any(one.everything for one in self._types.values()) or all(
            type_url in self._types for type_url in ROOTS if self._target[type_url]
        )

    @staticmethod
    def _check(names: int) -> None:
        if names > MOST_NAMES:
            raise TooMuch(f"a stream may ask for {MOST_NAMES} resources of a type at most")
