"""The exceptions to the contract: what may be called although no option says so, and by whom.

Sidecars, edges and the runtime all read them here. Each is a whole service or path, never a part of
a declared service.
"""

from __future__ import annotations

from dataclasses import dataclass

from mesh.contracts.model import EVERY_WORKLOAD, Callers, Role


@dataclass(frozen=True)
class CallException:
    """Methods of a standard service, and who may call them.

    `workload` serves it, or every workload; then `isthmus` and edges may ask any of them.
    """

    service: str
    methods: tuple[str, ...]
    callers: Callers
    reason: str
    workload: str = EVERY_WORKLOAD

    @property
    def paths(self) -> tuple[str, ...]:
        """The HTTP/2 paths: ``/package.Service/Method``."""
        return tuple(f"/{self.service}/{method}" for method in self.methods)


@dataclass(frozen=True)
class PageException:
    """An HTTP/1 page that every workload serves, and who may read it through an edge.

    The edge's path is `prefix` followed by the workload's name.
    """

    prefix: str
    callers: Callers
    reason: str


CONTROL = "control"
"""The workload that is a region's control plane."""

_OPERATORS = Callers(roles=frozenset({Role.OPERATOR}))

CALLS: tuple[CallException, ...] = (
    CallException(
        "grpc.health.v1.Health",
        ("Check", "Watch", "List"),
        Callers(roles=frozenset({Role.OPERATOR}), any_workload=True),
        "sidecars and edges choose healthy instances by it",
    ),
    CallException(
        "grpc.reflection.v1.ServerReflection",
        ("ServerReflectionInfo",),
        _OPERATORS,
        "operators explore services with standard tools",
    ),
    CallException(
        "grpc.reflection.v1alpha.ServerReflection",
        ("ServerReflectionInfo",),
        _OPERATORS,
        "operators explore services with older standard tools",
    ),
    CallException(
        "envoy.service.discovery.v3.AggregatedDiscoveryService",
        ("DeltaAggregatedResources", "StreamAggregatedResources"),
        Callers(any_workload=True),
        "sidecars discover their own configuration, and nobody else's",
        CONTROL,
    ),
)

METRICS = PageException(
    "/metrics/",
    _OPERATORS,
    "Prometheus reads HTTP/1 pages, not gRPC",
)

CALLERS_BY_PATH: dict[str, Callers] = {
    path: item.callers for item in CALLS if item.workload == EVERY_WORKLOAD for path in item.paths
}
"""Who may call each excepted path that every workload serves."""


def served_by(workload: str) -> dict[str, Callers]:
    """Who may call each excepted path that this workload serves."""
    return CALLERS_BY_PATH | {
        path: item.callers for item in CALLS if item.workload == workload for path in item.paths
    }
