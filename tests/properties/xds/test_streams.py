"""Whatever comes in between, a client ends with exactly what it shall have, and never without."""

from __future__ import annotations

from collections import deque
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.xds.delta import DeltaStream
from mesh.xds.kinds import CLUSTER, ENDPOINTS, LISTENER, ROUTES
from mesh.xds.resources import Resource, Snapshot
from mesh.xds.stream import Response
from mesh.xds.whole import WholeStream
from tests.support.xds_clients import LIBRARY, DeltaClient, WholeClient, resource

_CONTENT = st.integers(0, 2)
_CLUSTERS = ("a", "b", "c", "d")


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    """A whole in which everything that is pointed at is there."""
    found: list[Resource] = []
    clusters = draw(st.sets(st.sampled_from(_CLUSTERS)))
    for name in sorted(clusters):
        found.append(resource(CLUSTER, name, draw(_CONTENT), (ENDPOINTS, name)))
        found.append(resource(ENDPOINTS, name, draw(_CONTENT)))
    tables = draw(st.sets(st.sampled_from(("in", "out"))))
    for name in sorted(tables):
        to = draw(st.sets(st.sampled_from(sorted(clusters)))) if clusters else set()
        # What a table points at is part of what it says.
        content = draw(_CONTENT) * 100 + sum(1 << _CLUSTERS.index(each) for each in to)
        found.append(resource(ROUTES, name, content, *((CLUSTER, each) for each in sorted(to))))
    for name in ("one", "two") if tables else ():
        if draw(st.booleans()):
            table = draw(st.sampled_from(sorted(tables)))
            content = draw(_CONTENT) * 10 + len(table)
            found.append(resource(LISTENER, name, content, (ROUTES, table)))
    return LIBRARY.snapshot(found)


_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("retarget"), snapshots()),
        st.just(("request", None)),
        st.just(("response", None)),
        st.just(("poll", None)),
        st.just(("reconnect", None)),
    ),
    max_size=60,
)


class World:
    """A server's stream and a client, with what is under way between them."""

    def __init__(self, client: Any, target: Snapshot) -> None:
        self.client = client
        self.target = target
        self.responses: deque[Response] = deque()
        self.reconnect()

    def reconnect(self) -> None:
        kind = DeltaStream if isinstance(self.client, DeltaClient) else WholeStream
        self.stream: Any = kind(self.target)
        self.responses.clear()
        self.client.connect()

    def step(self, name: str, value: Any) -> bool:
        """Does one thing; whether there was one to do."""
        match name:
            case "retarget":
                self.target = value
                self.stream.retarget(value)
            case "reconnect":
                self.reconnect()
            case "request":
                if not self.client.requests:
                    return False
                self.stream.receive(self.client.requests.pop(0), 7)
            case "poll":
                found = self.stream.poll()
                if found is None:
                    return False
                self.responses.append(found)
            case "response":
                if not self.responses:
                    return False
                self.client.take(self.responses.popleft())
        return True

    def drain(self) -> None:
        """Until nothing is under way."""
        for _ in range(300):
            steps = [self.step(name, None) for name in ("request", "poll", "response")]
            if not any(steps):
                return
        raise AssertionError("they never come to rest")

    def wanted(self) -> dict[str, dict[str, str]]:
        """What the client shall have in the end: what it has a use for."""
        routes: set[str] = set()
        clusters = set(self.target[CLUSTER])
        listeners = set(self.target[LISTENER])
        if isinstance(self.client, WholeClient):
            listeners &= self.client.listeners
            clusters = set()
        routes = _needs(self.target, LISTENER, listeners)
        if isinstance(self.client, WholeClient):
            clusters = _needs(self.target, ROUTES, routes)
        names = {
            LISTENER: listeners,
            ROUTES: routes,
            CLUSTER: clusters,
            ENDPOINTS: _needs(self.target, CLUSTER, clusters),
        }
        return {
            type_url: {name: self.target[type_url][name].version for name in found}
            for type_url, found in names.items()
            if found
        }

    def has(self) -> dict[str, dict[str, str]]:
        return {type_url: found for type_url, found in self.client.content().items() if found}

    def dangling(self) -> set[str]:
        """Clusters that the client's routes point at and that it does not have."""
        holdings = self.client.holdings
        if ROUTES not in holdings:
            return set()
        pointed = {name for each in holdings[ROUTES].has.values() for _, name in each.needs}
        return pointed - holdings[CLUSTER].has.keys()


def _needs(target: Snapshot, type_url: str, names: set[str]) -> set[str]:
    return {name for each in names for _, name in target[type_url][each].needs}


@settings(max_examples=200)
@given(first=snapshots(), steps=_STEPS)
def test_a_delta_client_ends_with_the_snapshot_and_never_points_at_nothing(
    first: Snapshot, steps: list[tuple[str, Any]]
) -> None:
    world = World(DeltaClient(), first)
    for name, value in steps:
        world.step(name, value)
        assert not world.dangling()
    world.drain()
    assert not world.dangling()
    assert world.has() == world.wanted()
    assert world.stream.acknowledged
    for view in world.stream.views():
        assert view.acknowledged == view.sent == world.target[view.type_url].version


@settings(max_examples=200)
@given(first=snapshots(), steps=_STEPS)
def test_a_whole_client_ends_with_what_it_asked_for(
    first: Snapshot, steps: list[tuple[str, Any]]
) -> None:
    world = World(WholeClient({"one", "gone"}, LISTENER), first)
    for name, value in steps:
        world.step(name, value)
    world.drain()
    assert world.has() == world.wanted()
    assert world.stream.acknowledged


@settings(max_examples=200)
@given(
    first=snapshots(),
    steps=_STEPS,
    bad=st.sets(st.tuples(st.sampled_from((CLUSTER, ENDPOINTS, LISTENER, ROUTES)), _CONTENT)),
    partial=st.booleans(),
    whole=st.booleans(),
    last=snapshots(),
)
def test_rejections_end_with_the_first_snapshot_that_is_not_rejected(
    first: Snapshot,
    steps: list[tuple[str, Any]],
    bad: set[tuple[str, int]],
    partial: bool,
    whole: bool,
    last: Snapshot,
) -> None:
    client: Any = WholeClient({"one", "two"}, LISTENER) if whole else DeltaClient(partial=partial)
    client.bad = {
        each.version
        for type_url, content in bad
        for target in (first, *(value for name, value in steps if name == "retarget"))
        for index, each in enumerate(target[type_url].values())
        if index == content and last[type_url].get(each.name) is not each
    }
    world = World(client, first)
    for name, value in steps:
        world.step(name, value)
    world.drain()
    if world.stream.acknowledged:
        assert world.has() == world.wanted()
    else:
        # It rests: what was rejected is not sent for ever, and the reason is at hand.
        found = world.stream.rejection
        assert found is not None
        assert found.text.startswith("bad: ")
        assert found.time_ms == 7
    world.step("retarget", last)
    world.drain()
    assert world.has() == world.wanted()
    assert world.stream.acknowledged
    assert world.stream.rejection is None


@settings(max_examples=150)
@given(first=snapshots(), second=snapshots())
def test_who_comes_back_gets_only_what_differs(first: Snapshot, second: Snapshot) -> None:
    world = World(DeltaClient(), first)
    world.drain()
    world.client.received.clear()
    world.reconnect()
    world.drain()
    assert not [r for r in world.client.received if r.resources or r.removed]
    assert world.stream.acknowledged
    had = {(type_url, *each) for type_url, c in world.has().items() for each in c.items()}
    world.target = second
    world.reconnect()
    world.drain()
    assert world.has() == world.wanted()
    sent = {
        (r.type_url, each.name, each.version)
        for r in world.client.received
        for each in r.resources
        if r.type_url != ENDPOINTS
    }
    assert not sent & had
