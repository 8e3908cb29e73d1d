"""Contract × Topology × Place -> what one Envoy is made of: listeners with their routes, clusters.

Pure: the same inputs give the same messages. Each part comes with a key that holds all that it
depends on beside the topology, so that who compiles one contract after another makes anew only
what differs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from envoy_data_plane.envoy.config.cluster import v3 as cluster
from envoy_data_plane.envoy.config.listener import v3 as listener

from mesh.contracts.model import Contract, Method
from mesh.envoy import clusters, listeners, routes, steering
from mesh.envoy.errors import EnvoyConfigError
from mesh.envoy.target import Target
from mesh.place import EDGE, Place
from mesh.topology import Topology

T = TypeVar("T")

COMPILING = threading.Lock()
"""Held while parts are made: the first ones complete the classes that describe them, once, and that
must not happen in two threads at once."""

Message = listener.Listener | cluster.Cluster


@dataclass(frozen=True)
class Part:
    """A listener or a cluster, and the targets that its routes point at."""

    message: Message
    targets: frozenset[Target] = frozenset()


Maker = Callable[[Hashable, Callable[[], Part]], tuple[T, frozenset[Target]]]
"""Makes what is wanted of a part, or has it by its key: equal keys make equal parts."""


def folder(place: Place) -> Path:
    """Where an Envoy's configuration lives."""
    return place.state / "envoy"


def as_they_are(_key: Hashable, make: Callable[[], Part]) -> tuple[Message, frozenset[Target]]:
    """The `Maker` that makes each part anew, and wants its message."""
    part = make()
    return part.message, part.targets


def parts(contract: Contract, topology: Topology, place: Place, maker: Maker[T]) -> Iterator[T]:
    """The parts of whatever stands at `place`: a workload's sidecar or an edge.

    Raises `EnvoyConfigError` if the topology has no such workload.
    """
    steering.check(contract, topology)
    made = _edge if place.workload == EDGE else _sidecar
    # Paths as text: they are hashed once for each part.
    here = (place.region, str(place.run), str(place.state), place.version)
    targets: set[Target] = set()
    for key, make in made(contract, topology, place):
        found, points_at = maker((*here, place.workload, place.otlp, *key), make)
        targets |= points_at
        yield found
    for to in sorted(targets, key=lambda to: (to.workload, to.locality, to.region, to.version)):
        # Shared by all workloads of a region.
        yield maker((*here, to), partial(_way, to, topology, place))[0]


def _way(to: Target, topology: Topology, place: Place) -> Part:
    return Part(clusters.upstream_cluster(to, topology, place, folder(place)))


_Recipe = tuple[tuple[Hashable, ...], Callable[[], Part]]


def _sidecar(contract: Contract, topology: Topology, place: Place) -> Iterator[_Recipe]:
    region, workload = place.region, place.workload
    if workload not in topology.workloads:
        raise EnvoyConfigError(
            f"no workload {workload!r} in {topology.path}: add it to `workloads`"
        )
    sds = folder(place)
    served = tuple(routes.served(contract, workload))

    def inbound() -> Part:
        table = routes.inbound(contract, topology, region, workload)
        address = topology.listening(place)
        named = table.configuration(listeners.INBOUND)
        return Part(
            listeners.inbound(address, place, sds, named, served, topology.revoked), table.targets
        )

    yield ("inbound", served), inbound
    yield _egress(contract, topology, place)
    open_ones = routes.enrolment(contract, workload)
    if open_ones is not None:
        named = open_ones.configuration(listeners.ENROLMENT)
        address = topology.enrolment(region)
        yield (
            ("enrolment", served),
            lambda: Part(listeners.enrolment(address, place, sds, named)),
        )
    yield ("app",), lambda: Part(clusters.app(place))
    yield ("metrics",), lambda: Part(clusters.metrics(place))
    yield from _collector(place)


def _edge(contract: Contract, topology: Topology, place: Place) -> Iterator[_Recipe]:
    """A region's edge: its listener, and an egress for its agent alone."""

    def edge() -> Part:
        table = routes.edge(contract, topology, place.region)
        address = topology.edge(place.region)
        named = table.configuration(listeners.EDGE)
        made = listeners.edge(address, place, folder(place), named, contract, topology)
        return Part(made, table.targets)

    yield ("edge", contract.transcoding, *contract.services.values()), edge
    # Its agent, which signs for it.
    yield ("app",), lambda: Part(clusters.app(place))
    yield _egress(contract, topology, place)
    yield from _collector(place)


def _egress(contract: Contract, topology: Topology, place: Place) -> _Recipe:
    region, workload = place.region, place.workload
    callable_: list[tuple[str, Method]] = [
        (callee, method)
        for callee in topology.workloads
        for method in routes.served(contract, callee)
        if routes.may_call(method, callee, workload)
    ]
    counted = tuple((method.service, method.name) for method in contract.methods())

    def egress() -> Part:
        table = routes.egress(contract, topology, region, workload)
        named = table.configuration(listeners.EGRESS)
        return Part(listeners.egress(place, named, contract.methods()), table.targets)

    return ("egress", tuple(callable_), counted), egress


def _collector(place: Place) -> Iterable[_Recipe]:
    otlp = place.otlp
    if otlp is not None:
        yield ("collector",), lambda: Part(clusters.collector(otlp))
