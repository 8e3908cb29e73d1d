"""The workload `devices`: their records, and the gateway that they connect to."""

from __future__ import annotations

import time

from isthmus.channels.v1.channel_pb2 import Channel
from isthmus.devices.v1.devices_pb2_grpc import add_DeviceServiceServicer_to_server
from isthmus.devices.v1.gateway_pb2_grpc import add_DeviceGatewayServiceServicer_to_server

from mesh.runtime import Host, own_context, run
from services.devices.gateway import Gateway
from services.devices.service import DeviceService


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


async def build(host: Host) -> None:
    """Adds both services, and what the gateway follows."""
    gateway = Gateway(host.group, lambda: own_context(host.actor), _now_ms)
    host.add(
        add_DeviceServiceServicer_to_server,
        DeviceService(host.group),
        "isthmus.devices.v1.DeviceService",
    )
    host.add(
        add_DeviceGatewayServiceServicer_to_server,
        gateway,
        "isthmus.devices.v1.DeviceGatewayService",
    )
    host.background("channels feed", gateway.watch_channels(host.watch("channels", [Channel])))
    host.background("devices watch", gateway.watch_devices())
    host.background("gateway", gateway.run())


if __name__ == "__main__":
    run("devices", build)
