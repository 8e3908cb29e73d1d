"""`isthmus overview`: the global picture, once or as it changes."""

from __future__ import annotations

from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mesh.cli.options import MESH, AsJson, MeshPath, Prefer
from mesh.cli.terminal import printable

if TYPE_CHECKING:
    from isthmus.devices.v1.device_pb2 import Device
    from isthmus.overview.v1.overview_pb2 import ChannelView, Event, Overview, Update


_PAUSE = 0.5
"""Seconds before a watch that ended is opened again."""


def overview(
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Then print what happens, until Ctrl-C.")
    ] = False,
    mesh: MeshPath = MESH,
    region: Prefer = "",
    as_json: AsJson = False,
) -> None:
    """Shows all regions, channels and devices, as one region sees them."""
    from isthmus.overview.v1.overview_pb2 import GetOverviewRequest
    from isthmus.overview.v1.overview_pb2_grpc import OverviewServiceStub

    from mesh.cli import output
    from mesh.cli.calls import Calls
    from mesh.cli.session import run

    if watch:
        run(_watch(mesh, region, as_json))
        return
    reply = Calls(mesh, region, OverviewServiceStub).read("GetOverview", GetOverviewRequest())
    if as_json:
        output.print_json(reply.overview)
    else:
        show(reply.overview)


def show(picture: Overview) -> None:
    """Prints the picture as tables."""
    from mesh.cli import output
    from mesh.cli.devices import duty_name

    heard = {view.region for view in picture.regions if view.reachable}
    print(f"As {picture.region} sees it:")
    output.print_table(
        ("REGION", "HEARD", "DEVICES", "ON AIR"),
        (
            (
                view.region,
                "yes" if view.reachable else "no",
                str(view.devices_connected),
                str(view.channels_on_air),
            )
            for view in picture.regions
        ),
        "No region.",
    )
    print()
    output.print_table(
        ("CHANNEL", "TITLE", "HOME", "STATE", "ENCODED BY"),
        (
            (
                view.channel.channel_id,
                view.channel.title or "-",
                view.channel.home_region,
                state_name(view),
                ", ".join(running.device_id for running in view.encodings) or "-",
            )
            for view in picture.channels
        ),
        "There is no channel yet: try `isthmus channels create news --start`.",
    )
    print()
    output.print_table(
        ("DEVICE", "REGION", "DUTY", "CONNECTED"),
        (
            (
                device.device_id,
                device.region,
                duty_name(device),
                _connection(device, heard),
            )
            for device in picture.devices
        ),
        "No device is enrolled yet.",
    )


def _connection(device: Device, heard: set[str]) -> str:
    from mesh.cli.devices import is_connected

    if not is_connected(device):
        return "no"
    gateway = device.session.gateway_region
    return f"through {gateway}" if gateway in heard else f"unknown: {gateway} is not heard"


def state_name(view: ChannelView) -> str:
    """``on air``, ``lost`` and so on."""
    from isthmus.overview.v1 import overview_pb2

    name = overview_pb2.ChannelState.Name(view.state)
    return name.removeprefix("CHANNEL_STATE_").lower().replace("_", " ")


async def _watch(mesh: Path, region: str, as_json: bool) -> None:
    """Follows the picture. A stream that ends is opened again, at another edge if need be."""
    import asyncio

    import grpc
    from isthmus.overview.v1.overview_pb2 import WatchOverviewRequest
    from isthmus.overview.v1.overview_pb2_grpc import OverviewServiceStub

    from mesh.cli.session import session

    # All else passes: a proxy's reset of a stream under way arrives as INTERNAL.
    final = (
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INVALID_ARGUMENT,
    )
    async with session(mesh, region) as opened:
        while True:
            async with opened.edges.connect() as channel:
                try:
                    async for message in OverviewServiceStub(channel).WatchOverview(
                        WatchOverviewRequest()
                    ):
                        _tell(message, as_json)
                except grpc.aio.AioRpcError as error:
                    if error.code() in final:
                        raise
            await asyncio.sleep(_PAUSE)


def _tell(message: Any, as_json: bool) -> None:
    from mesh.cli import output

    if as_json:
        output.print_json(message, one_line=True)
        return
    match message.WhichOneof("message"):
        case "snapshot":
            show(message.snapshot)
            print(flush=True)
        case "update":
            for line in _changes(message.update):
                print(printable(line, lines=False), flush=True)
        case "event":
            print(_sentence(message.event), flush=True)


def _changes(update: Update) -> list[str]:
    """What an update says, without the progress of encoders, which never ends."""
    return [
        *(f"         channel {name} is deleted" for name in update.deleted_channels),
        *(f"         device {name} is deleted" for name in update.deleted_devices),
    ]


def _sentence(event: Event) -> str:
    from isthmus.overview.v1 import overview_pb2

    time = event.time.ToDatetime(tzinfo=UTC).astimezone().strftime("%H:%M:%S")
    kind = overview_pb2.EventKind.Name(event.kind).removeprefix("EVENT_KIND_")
    return printable(f"{time} {kind.lower().replace('_', ' ')}: {event.text}", lines=False)
