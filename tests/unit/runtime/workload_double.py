"""A workload's process for tests: `overview` or `channels` with little in it.

Run as ``python -m tests.unit.runtime.workload_double NAME [fail-build | fail-background]``.
"""

from __future__ import annotations

import sys
from typing import Any

import grpc
from isthmus.channels.v1.channel_pb2 import Channel
from isthmus.overview.v1 import overview_pb2, overview_pb2_grpc

from mesh.replication import Transaction
from mesh.runtime import Host, own_context, run

Context = grpc.aio.ServicerContext[Any, Any]


class Overview(overview_pb2_grpc.OverviewServiceServicer):
    """Says which region it is."""

    def __init__(self, region: str) -> None:
        self._region = region

    async def GetOverview(
        self, request: overview_pb2.GetOverviewRequest, context: Context
    ) -> overview_pb2.GetOverviewResponse:
        return overview_pb2.GetOverviewResponse(overview=overview_pb2.Overview(region=self._region))


async def build(host: Host) -> None:
    """Serves, or fails as it was told."""
    if "fail-build" in sys.argv:
        raise RuntimeError("no such luck")
    if "fail-background" in sys.argv:
        host.background("doomed work", _doomed())
    if host.place.workload == "overview":
        host.add(
            overview_pb2_grpc.add_OverviewServiceServicer_to_server,
            Overview(host.region),
            "isthmus.overview.v1.OverviewService",
        )
    else:
        await host.group.write(_first, own_context(host.actor))


def _first(transaction: Transaction) -> Channel:
    if (known := transaction.get(Channel, "first")) is not None:
        return known
    channel = Channel(channel_id="first", title="First")
    transaction.create(channel)
    return channel


async def _doomed() -> None:
    raise ValueError("it was doomed")


if __name__ == "__main__":
    run(sys.argv[1], build, reflect_all=sys.argv[1] == "overview")
