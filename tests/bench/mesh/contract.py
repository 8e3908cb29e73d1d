"""A contract as large as one likes: one workload that many call little and that calls many."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mesh.contracts.model import (
    Callers,
    Consistency,
    Contract,
    Durability,
    Idempotency,
    Locality,
    Location,
    Method,
    Service,
)
from mesh.topology import Address, Region, Topology
from mesh.xds import Instance

FRONT = Instance("eu", "front")
SERVED = 10
"""Methods that the measured workload serves itself."""
_REST = 6
"""Resources beside the ways to others: two clusters on the own host, two listeners, two tables."""


def topology(resources: int) -> Topology:
    """One region in which `front` calls so many others that it has this many resources."""
    others = (resources - _REST) // 2  # a cluster and its endpoints each
    return Topology(
        path=Path("mesh.yaml"),
        trust_domain="bench.test",
        regions=(Region("eu", "127.0.0.1", 10_000),),
        workloads=("front", *(f"other-{number}" for number in range(others))),
        devices=(),
        media_root=Path("media"),
        origin=Address("127.0.0.1", 9_999),
        otlp=None,
    )


def contract(whole: Topology) -> Contract:
    """`front` serves a few methods, and calls one of each of the others."""
    front = tuple(_method("bench.v1.Front", f"Do{n}", "other-0") for n in range(SERVED))
    services = {"bench.v1.Front": _service("bench.v1.Front", "front", front)}
    for workload in whole.workloads[1:]:
        name = f"bench.v1.{workload.replace('-', '')}"
        services[name] = _service(name, workload, (_method(name, "Get", "front"),))
    return Contract(services, {})


def with_callers(before: Contract, number: int) -> Contract:
    """The contract in which one method of `front` has other callers, never the same again."""
    others = len(before.services) - 1
    callers = frozenset({f"other-{number % others}", f"other-{number // others}"})
    service = before.services["bench.v1.Front"]
    first = replace(service.methods[0], callers=Callers(workloads=callers))
    changed = replace(service, methods=(first, *service.methods[1:]))
    return replace(before, services={**before.services, service.name: changed})


def _service(name: str, workload: str, methods: tuple[Method, ...]) -> Service:
    return Service(name, workload, None, "bench", "", methods, Location("bench.proto", 1))


def _method(service: str, name: str, caller: str) -> Method:
    return Method(
        service,
        name,
        "",
        "",
        client_streaming=False,
        server_streaming=False,
        callers=Callers(workloads=frozenset({caller})),
        idempotency=Idempotency.UNKNOWN,
        locality=Locality.LOCAL,
        consistency=Consistency.EVENTUAL,
        durability=Durability.REGION,
        timeout=5.0,
        stream_max_age=None,
        retry=None,
        rate_limit=None,
        location=Location("bench.proto", 1),
    )
