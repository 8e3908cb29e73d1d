"""The workload `overview`: the global picture, from any region."""

from __future__ import annotations

import time

from isthmus.channels.v1.channel_pb2 import Channel
from isthmus.devices.v1.device_pb2 import Device
from isthmus.overview.v1.overview_pb2_grpc import add_OverviewServiceServicer_to_server

from mesh.runtime import Host, run
from services.overview.domain import Board
from services.overview.service import OverviewService


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


async def build(host: Host) -> None:
    """Adds the service, and follows both feeds."""
    service = OverviewService(Board(host.region, host.regions), _now_ms)
    host.add(add_OverviewServiceServicer_to_server, service, "isthmus.overview.v1.OverviewService")
    host.background("channels feed", service.follow("channels", host.watch("channels", [Channel])))
    host.background("devices feed", service.follow("devices", host.watch("devices", [Device])))


if __name__ == "__main__":
    # An edge asks this workload which services there are.
    run("overview", build, reflect_all=True)
