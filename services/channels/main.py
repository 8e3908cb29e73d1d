"""The workload `channels`: what operators want on air, and who encodes it."""

from __future__ import annotations

import time

from isthmus.channels.v1.channels_pb2_grpc import add_ChannelServiceServicer_to_server
from isthmus.devices.v1.device_pb2 import Device

from mesh.runtime import Host, own_context, run
from services.channels.loop import Loop
from services.channels.observer import Observer
from services.channels.reconciler import Patience
from services.channels.service import ChannelService


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


async def build(host: Host) -> None:
    """Adds the service, and runs the reconciler beside it."""
    patience = Patience()
    host.add(
        add_ChannelServiceServicer_to_server,
        ChannelService(host.group, host.regions),
        "isthmus.channels.v1.ChannelService",
    )
    observer = Observer(host.region, host.regions, _now_ms(), patience.region_ms)
    loop = Loop(host.group, observer, lambda: own_context(host.actor), _now_ms, patience)
    host.background("devices feed", loop.watch_devices(host.watch("devices", [Device])))
    host.background("channels watch", loop.watch_channels())
    host.background("reconciler", loop.run())


if __name__ == "__main__":
    run("channels", build)
