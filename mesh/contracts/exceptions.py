"""The exceptions to the contract: what may be called although no option says so, and by whom.

Sidecars, edges and the runtime all read them here. Each is a whole service or path, never a part of
a declared service.
"""

from __future__ import annotations

from dataclasses import dataclass

from mesh.contracts.model import Callers, Role


@dataclass(frozen=True)
class CallException:
    """Methods of a standard service that every workload serves, and who may call them."""

    service: str
    methods: tuple[str, ...]
    callers: Callers
    reason: str

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
)

METRICS = PageException(
    "/metrics/",
    _OPERATORS,
    "Prometheus reads HTTP/1 pages, not gRPC",
)

CALLERS_BY_PATH: dict[str, Callers] = {path: item.callers for item in CALLS for path in item.paths}
"""Who may call each excepted path."""
