"""`isthmus devices`: the media equipment."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mesh.cli.options import MESH, AsJson, MeshPath, Prefer

if TYPE_CHECKING:
    from isthmus.devices.v1.device_pb2 import Device, EncodingState

    from mesh.cli.calls import Calls

app = typer.Typer(help="Encoders: see them, drain them, let new ones join.", no_args_is_help=True)

DeviceId = Annotated[str, typer.Argument(metavar="DEVICE", help="The device's id.")]


@app.command("list")
def list_devices(mesh: MeshPath = MESH, region: Prefer = "", as_json: AsJson = False) -> None:
    """Shows all devices, in the order of their ids."""
    from isthmus.devices.v1.devices_pb2 import ListDevicesRequest

    from mesh.cli import output

    replies = _devices(mesh, region).pages("ListDevices", ListDevicesRequest(page_size=500))
    devices = [device for reply in replies for device in reply.devices]
    if as_json:
        return output.print_json({"devices": devices})
    return output.print_table(
        ("DEVICE", "REGION", "DUTY", "CONNECTED", "ENCODES", "LABELS"),
        (
            (
                device.device_id,
                device.region,
                duty_name(device),
                f"through {device.session.gateway_region}" if is_connected(device) else "no",
                _encodes(device) or "-",
                ", ".join(device.labels) or "-",
            )
            for device in devices
        ),
        "No device is enrolled yet.",
    )


@app.command()
def get(
    device_id: DeviceId, mesh: MeshPath = MESH, region: Prefer = "", as_json: AsJson = False
) -> None:
    """Shows one device."""
    from isthmus.devices.v1.devices_pb2 import GetDeviceRequest

    reply = _devices(mesh, region).read("GetDevice", GetDeviceRequest(device_id=device_id))
    _show(reply.device, as_json)


@app.command()
def token(
    device_id: DeviceId,
    hours: Annotated[
        float, typer.Option(help="How long it may be used.", min=0.01, max=24.0)
    ] = 1.0,
    mesh: MeshPath = MESH,
    region: Prefer = "",
    as_json: AsJson = False,
) -> None:
    """Issues a join token, with which a new device enrols once.

    It is valid in the region whose authority issued it: that of `--region`, or the first one.
    """
    from mesh.cli import output
    from mesh.cli.exits import CommandError, Exit
    from mesh.cli.session import run
    from mesh.identity.enrolment import AUTHORITY
    from mesh.topology import load

    if AUTHORITY not in load(mesh).workloads:
        raise CommandError(
            f"{mesh} has no authority: have the issuer of this mesh make the device's identity, "
            "and put it in place with `isthmus identity install`",
            Exit.CONFLICT,
        )
    reply = run(_token(mesh, region, device_id, hours))
    if as_json:
        return output.print_json(reply)
    return output.print_fields(
        (
            ("join token", reply.join_token),
            ("enrol at", reply.enrolment_address),
            ("expires", output.local_time(reply.expires.ToDatetime())),
        )
    )


@app.command()
def drain(
    device_id: DeviceId, mesh: MeshPath = MESH, region: Prefer = "", as_json: AsJson = False
) -> None:
    """Asks for maintenance: its channels go to their standbys, and it takes no more."""
    _show(_set_duty(mesh, region, device_id, "DUTY_MAINTENANCE"), as_json)


@app.command()
def resume(
    device_id: DeviceId, mesh: MeshPath = MESH, region: Prefer = "", as_json: AsJson = False
) -> None:
    """Ends maintenance: the device takes channels again."""
    _show(_set_duty(mesh, region, device_id, "DUTY_ACTIVE"), as_json)


@app.command()
def label(
    device_id: DeviceId,
    add: Annotated[list[str] | None, typer.Option(help="A label to add.")] = None,
    remove: Annotated[list[str] | None, typer.Option(help="A label to remove.")] = None,
    mesh: MeshPath = MESH,
    region: Prefer = "",
    as_json: AsJson = False,
) -> None:
    """Adds and removes labels."""
    from isthmus.devices.v1.devices_pb2 import UpdateLabelsRequest

    from mesh.cli.exits import CommandError, Exit

    if not add and not remove:
        raise CommandError("name a label with --add or --remove", Exit.USAGE)
    request = UpdateLabelsRequest(device_id=device_id, add=add or (), remove=remove or ())
    _show(_devices(mesh, region).write("UpdateLabels", request).device, as_json)


@app.command()
def delete(
    device_id: DeviceId, mesh: MeshPath = MESH, region: Prefer = "", as_json: AsJson = False
) -> None:
    """Forgets a device that is not connected."""
    from isthmus.devices.v1.devices_pb2 import DeleteDeviceRequest

    from mesh.cli import output

    _devices(mesh, region).write("DeleteDevice", DeleteDeviceRequest(device_id=device_id))
    output.print_deleted("device_id", device_id, as_json)


def is_connected(device: Device) -> bool:
    """Whether a gateway holds its stream."""
    return device.session.epoch > 0 and device.session.connected_rank == 0


def duty_name(device: Device) -> str:
    """``active`` or ``maintenance``."""
    from isthmus.devices.v1 import device_pb2

    return device_pb2.Duty.Name(device.duty).removeprefix("DUTY_").lower()


def _encodes(device: Device) -> str:
    """Its channels; of a device that no gateway hears, what it last told."""
    channels = ", ".join(encoding.channel_id for encoding in device.encodings.encodings)
    return channels if is_connected(device) or not channels else f"lost; last told {channels}"


def _connection(device: Device) -> str:
    from mesh.cli import output

    if is_connected(device):
        return f"through {device.session.gateway_region}"
    if not device.session.HasField("changed"):
        return "no"
    return f"no, since {output.local_time(device.session.changed.ToDatetime())}"


def _set_duty(mesh: Path, region: str, device_id: str, duty: str) -> Device:
    from isthmus.devices.v1 import device_pb2
    from isthmus.devices.v1.devices_pb2 import SetDutyRequest

    request = SetDutyRequest(device_id=device_id, duty=device_pb2.Duty.Value(duty))
    device: Device = _devices(mesh, region).write("SetDuty", request).device
    return device


def _state_name(state: EncodingState.ValueType) -> str:
    """``on air``, ``starting`` and so on."""
    from isthmus.devices.v1 import device_pb2

    name = device_pb2.EncodingState.Name(state)
    return name.removeprefix("ENCODING_STATE_").lower().replace("_", " ")


def _show(device: Device, as_json: bool) -> None:
    from mesh.cli import output

    if as_json:
        return output.print_json(device)
    encodings = "\n".join(
        f"{e.channel_id}: "
        f"{_state_name(e.state)}, "
        f"{e.segments} segments, speed {e.speed:.2f}{', ' + e.error if e.error else ''}"
        for e in device.encodings.encodings
    )
    return output.print_fields(
        (
            ("device", device.device_id),
            ("region", device.region),
            ("model", device.model),
            ("duty", duty_name(device)),
            ("capacity", str(device.capacity)),
            ("connected", _connection(device)),
            ("encodes" if is_connected(device) else "last told", encodings),
            ("encoder restarts", str(device.encoder_restarts or "")),
            ("labels", ", ".join(device.labels)),
            ("site", " ".join(filter(None, (device.location.site, device.location.rack)))),
        )
    )


def _devices(mesh: Path, region: str) -> Calls:
    from isthmus.devices.v1.devices_pb2_grpc import DeviceServiceStub

    from mesh.cli.calls import Calls

    return Calls(mesh, region, DeviceServiceStub)


async def _token(mesh: Path, region: str, device_id: str, hours: float) -> Any:
    from google.protobuf.duration_pb2 import Duration
    from isthmus.mesh.v1.authority_pb2 import CreateJoinTokenRequest
    from isthmus.mesh.v1.authority_pb2_grpc import AuthorityServiceStub

    from mesh.cli.session import session

    request = CreateJoinTokenRequest(
        device_id=device_id, lifetime=Duration(seconds=round(hours * 3600))
    )
    async with session(mesh, region, only=bool(region)) as opened:
        return await opened.once(
            lambda channel: AuthorityServiceStub(channel).CreateJoinToken(request, timeout=5)
        )
