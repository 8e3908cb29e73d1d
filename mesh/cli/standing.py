"""How every workload of a mesh stands, asked through each region's own edge."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
from isthmus.mesh.v1.status_pb2 import GetStatusRequest, GetStatusResponse
from isthmus.mesh.v1.status_pb2_grpc import StatusServiceStub

from mesh.cli.upstream import in_words
from mesh.runtime.client import Edges, NoEdge
from mesh.topology import Topology

WORKLOAD_HEADER = "x-isthmus-workload"
_DEADLINE = 3.0
NO_EDGE = "its region's edge does not answer"


@dataclass(frozen=True)
class Standing:
    """One workload of one region: its status, or why it gave none.

    `edge`: whether its region's edge answers.
    """

    region: str
    workload: str
    status: GetStatusResponse | None
    problem: str = ""
    edge: bool = True

    @property
    def healthy(self) -> bool:
        """Whether it answered."""
        return self.status is not None


@dataclass(frozen=True)
class Agreement:
    """How a group's regions compare.

    `differing`: regions at one vector whose digests are not equal, which must never be. One that
    has not hashed all yet gives none.
    `parked`: regions that hold changes which they cannot read yet: they are not compared.
    `converged`: all regions that answered are at one vector.
    """

    group: str
    regions: tuple[str, ...]
    converged: bool
    differing: tuple[str, ...]
    digest: str
    parked: tuple[str, ...] = ()


async def ask(topology: Topology, identity: Path, regions: Iterable[str]) -> list[Standing]:
    """The standing of every workload in `regions`, all asked at once."""
    answers = await asyncio.gather(*(_region(topology, identity, name) for name in regions))
    return [standing for answer in answers for standing in answer]


async def _region(topology: Topology, identity: Path, region: str) -> list[Standing]:
    edges = Edges([str(topology.edge(region))], identity)

    async def one(workload: str) -> Standing:
        try:
            status = await edges.call(
                lambda channel: StatusServiceStub(channel).GetStatus(
                    GetStatusRequest(),
                    timeout=_DEADLINE,
                    metadata=((WORKLOAD_HEADER, workload),),
                ),
                repeatable=False,
            )
        except NoEdge:
            return Standing(region, workload, None, NO_EDGE, edge=False)
        except grpc.aio.AioRpcError as error:
            return Standing(region, workload, None, problem(error))
        return Standing(region, workload, status)

    try:
        first, *others = topology.workloads
        # The first call opens the connection; a dead edge is then waited for only once.
        found = await one(first)
        if not found.edge:
            return [replace(found, workload=name) for name in topology.workloads]
        return [found, *await asyncio.gather(*(one(name) for name in others))]
    finally:
        await edges.close()


def problem(error: grpc.aio.AioRpcError) -> str:
    """Why a workload gave no status."""
    details = error.details() or error.code().name
    match error.code():
        case grpc.StatusCode.UNAVAILABLE:
            return in_words(details)
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return f"it did not answer within {_DEADLINE:g} s"
        case _:
            return f"{error.code().name}: {details}"


def agreements(standings: Iterable[Standing]) -> list[Agreement]:
    """Compares the groups' digests between regions, by group."""
    groups: dict[str, list[Standing]] = defaultdict(list)
    for standing in standings:
        if standing.status is not None and standing.status.HasField("group"):
            groups[standing.status.group.group].append(standing)
    return [_compare(group, members) for group, members in sorted(groups.items())]


def _compare(group: str, members: list[Standing]) -> Agreement:
    by_vector: dict[tuple[tuple[str, int, int], ...], dict[str, bytes]] = defaultdict(dict)
    parked = []
    for standing in members:
        assert standing.status is not None  # noqa: S101  `agreements` took no other
        found = by_vector[vector(standing.status)]
        if standing.status.group.parked:
            parked.append(standing.region)
        else:
            found[standing.region] = standing.status.group.digest
    differing = [
        region
        for digests in by_vector.values()
        if len(set(digests.values()) - {b""}) > 1
        for region in digests
    ]
    digests = {digest for each in by_vector.values() for digest in each.values()}
    return Agreement(
        group,
        tuple(standing.region for standing in members),
        len(by_vector) == 1,
        tuple(differing),
        digests.pop().hex() if len(digests) == 1 else "",
        tuple(parked),
    )


def vector(status: GetStatusResponse) -> tuple[tuple[str, int, int], ...]:
    """What a group has applied, in one order, to compare."""
    return tuple(
        sorted(
            (position.origin.region, position.origin.incarnation, position.sequence)
            for position in status.group.vector.positions
        )
    )
