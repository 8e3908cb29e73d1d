"""Clients of xDS as small as the protocol allows: what a correct client must do, and no more."""

from __future__ import annotations

from dataclasses import dataclass, field

from mesh.xds.delta import DeltaRequest
from mesh.xds.kinds import CLUSTER, ENDPOINTS, ROOTS
from mesh.xds.resources import Library, Resource
from mesh.xds.stream import Response
from mesh.xds.whole import WholeRequest


@dataclass
class Holding:
    """One type at a client: what it takes part in, and what it has."""

    names: set[str] | None
    """None for all of them."""
    has: dict[str, Resource] = field(default_factory=dict)
    version: str = ""
    nonce: str = ""


def names_needed(holdings: dict[str, Holding], type_url: str) -> set[str]:
    """What the resources at hand point at."""
    return {
        name
        for holding in holdings.values()
        for each in holding.has.values()
        for needed, name in each.needs
        if needed == type_url
    }


class DeltaClient:
    """Asks for all roots, and for what they need by name; rejects the versions in `bad`.

    As Envoy does, it takes a cluster only once the cluster's endpoints have come again, asks for
    them only if it never did, and says nothing more about clusters before.
    What it sends is queued in `requests`, so that a test decides what arrives when.
    """

    def __init__(self, *, partial: bool = False) -> None:
        self.holdings: dict[str, Holding] = {}
        self.requests: list[DeltaRequest] = []
        self.bad: set[str] = set()
        self.received: list[Response] = []
        self._warming: set[str] = set()
        self._withheld: list[DeltaRequest] = []
        # On a rejection Envoy takes the resources of a response that are good, and leaves the rest.
        self._partial = partial

    def connect(self) -> None:
        """A new stream: says what it has of each type."""
        self.requests.clear()
        self._withheld.clear()
        self._warming.clear()
        for type_url in ROOTS:
            self.holdings.setdefault(type_url, Holding(None))
        for type_url, holding in self.holdings.items():
            held = {name: each.version for name, each in holding.has.items()}
            if holding.names is None or holding.names:
                subscribe = () if holding.names is None else tuple(sorted(holding.names))
                self.requests.append(DeltaRequest(type_url, subscribe, held=held))
        self._ask()

    def take(self, response: Response) -> None:
        """Takes or rejects a response, and answers it."""
        self.received.append(response)
        holding = self.holdings[response.type_url]
        wrong = [each for each in response.resources if each.version in self.bad]
        if not wrong or self._partial:
            for each in response.resources:
                # What it no longer asks for may still have been under way.
                wanted = holding.names is None or each.name in holding.names
                if wanted and each not in wrong:
                    holding.has[each.name] = each
            for name in response.removed:
                holding.has.pop(name, None)
        error = f"bad: {', '.join(each.name for each in wrong)}" if wrong else None
        verdict = DeltaRequest(response.type_url, nonce=response.nonce, error=error)
        (self._withheld if response.type_url == CLUSTER else self.requests).append(verdict)
        self._warm(response)
        self._ask()

    def _warm(self, response: Response) -> None:
        if response.type_url == CLUSTER:
            for each in response.resources:
                if self.holdings[CLUSTER].has.get(each.name) is each:
                    self._warming |= {name for url, name in each.needs if url == ENDPOINTS}
        elif response.type_url == ENDPOINTS:
            # Also by what it rejects: nothing better may come.
            self._warming -= {each.name for each in response.resources} | set(response.removed)
        clusters = self.holdings[CLUSTER].has.values()
        self._warming &= {name for each in clusters for _, name in each.needs}
        if not self._warming:
            self.requests += self._withheld
            self._withheld.clear()

    def _ask(self) -> None:
        """Asks by name for what is needed now, and no longer for what is not."""
        needed_types = {
            type_url
            for holding in self.holdings.values()
            for each in holding.has.values()
            for type_url, _ in each.needs
        }
        for type_url in sorted(needed_types | {t for t in self.holdings if t not in ROOTS}):
            if type_url in ROOTS:
                continue
            holding = self.holdings.setdefault(type_url, Holding(set()))
            assert holding.names is not None
            needed = names_needed(self.holdings, type_url)
            more, less = needed - holding.names, holding.names - needed
            holding.names = needed
            for name in less:
                holding.has.pop(name, None)
            if more or less:
                self.requests.append(
                    DeltaRequest(type_url, tuple(sorted(more)), tuple(sorted(less)))
                )

    def content(self) -> dict[str, dict[str, str]]:
        """Versions by type and name."""
        return {
            type_url: {name: each.version for name, each in holding.has.items()}
            for type_url, holding in self.holdings.items()
        }


class WholeClient:
    """Asks for some listeners by name, and then for what they need, as gRPC does."""

    def __init__(self, listeners: set[str], root: str) -> None:
        self.root = root
        self.listeners = listeners
        self.holdings: dict[str, Holding] = {}
        self.requests: list[WholeRequest] = []
        self.bad: set[str] = set()
        self.received: list[Response] = []

    def connect(self) -> None:
        """A new stream: names what it wants, and the version that it has."""
        self.requests.clear()
        self.holdings.setdefault(self.root, Holding(set(self.listeners)))
        for type_url, holding in self.holdings.items():
            holding.nonce = ""
            if holding.names:
                self._request(type_url)

    def take(self, response: Response) -> None:
        """Takes or rejects a response, and answers it."""
        self.received.append(response)
        holding = self.holdings[response.type_url]
        assert holding.names is not None
        holding.nonce = response.nonce
        wrong = [each.name for each in response.resources if each.version in self.bad]
        if not wrong:
            holding.version = response.version
            found = {each.name: each for each in response.resources if each.name in holding.names}
            holding.has = found if response.type_url in ROOTS else holding.has | found
        self._request(response.type_url, f"bad: {', '.join(wrong)}" if wrong else None)
        self._ask()

    def _ask(self) -> None:
        types = {
            type_url
            for holding in self.holdings.values()
            for each in holding.has.values()
            for type_url, _ in each.needs
        }
        for type_url in sorted(types | (self.holdings.keys() - {self.root})):
            holding = self.holdings.setdefault(type_url, Holding(set()))
            needed = names_needed(self.holdings, type_url)
            if needed != holding.names:
                holding.names = needed
                holding.has = {n: each for n, each in holding.has.items() if n in needed}
                self._request(type_url)
                self._ask()  # what is no longer needed may have needed others

    def _request(self, type_url: str, error: str | None = None) -> None:
        holding = self.holdings[type_url]
        assert holding.names is not None
        self.requests.append(
            WholeRequest(
                type_url, tuple(sorted(holding.names)), holding.version, holding.nonce, error
            )
        )

    def content(self) -> dict[str, dict[str, str]]:
        """Versions by type and name."""
        return {
            type_url: {name: each.version for name, each in holding.has.items()}
            for type_url, holding in self.holdings.items()
        }


LIBRARY = Library()


def resource(type_url: str, name: str, content: int, *needs: tuple[str, str]) -> Resource:
    """A resource whose version depends on `content`."""
    return LIBRARY.resource(type_url, name, f"{type_url} {name} {content}".encode(), needs)
