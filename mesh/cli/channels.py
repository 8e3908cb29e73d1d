"""`isthmus channels`: what shall be on air."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mesh.cli.options import MESH, AsJson, MeshPath, Prefer

if TYPE_CHECKING:
    from isthmus.channels.v1.channel_pb2 import Channel, Profile, Source

    from mesh.cli.calls import Calls

app = typer.Typer(help="Channels: create, steer and look at them.", no_args_is_help=True)

ChannelId = Annotated[str, typer.Argument(metavar="CHANNEL", help="The channel's id.")]
Title = Annotated[str | None, typer.Option(help="What people call it.")]
HomeRegion = Annotated[
    str | None, typer.Option("--home", help="The region that assigns its encoder.")
]
File = Annotated[str | None, typer.Option(help="Source: a file below the media root.")]
Url = Annotated[str | None, typer.Option(help="Source: an https, rtmps or srt URL to pull.")]
Width = Annotated[int | None, typer.Option(help="Pixels.")]
Height = Annotated[int | None, typer.Option(help="Pixels.")]
Kbps = Annotated[int | None, typer.Option(help="Video, in kilobits a second.")]
FrameRate = Annotated[int | None, typer.Option(help="Pictures a second.")]


class Pattern(StrEnum):
    """Generated pictures."""

    BARS = "bars"
    CLOCK = "clock"


TestPicture = Annotated[Pattern | None, typer.Option("--pattern", help="Source: a test picture.")]


@app.command()
def create(
    channel_id: ChannelId,
    title: Title = None,
    home: HomeRegion = None,
    file: File = None,
    url: Url = None,
    pattern: TestPicture = None,
    width: Width = None,
    height: Height = None,
    kbps: Kbps = None,
    frame_rate: FrameRate = None,
    pinned: Annotated[
        bool, typer.Option("--pinned", help="No automatic move except on loss.")
    ] = False,
    label: Annotated[list[str] | None, typer.Option(help="A word to find it by.")] = None,
    start: Annotated[bool, typer.Option("--start", help="Put it on air at once.")] = False,
    mesh: MeshPath = MESH,
    region: Prefer = "",
    as_json: AsJson = False,
) -> None:
    """Creates a channel. Without a source it shows a test picture."""
    from isthmus.channels.v1.channels_pb2 import CreateChannelRequest

    request = CreateChannelRequest(
        channel_id=channel_id,
        title=title or "",
        home_region=home or "",
        source=_source(file, url, pattern) or _source(None, None, Pattern.BARS),
        profile=_profile(width, height, kbps, frame_rate),
        pinned=pinned,
        labels=label or (),
        start=start,
    )
    _show(_channels(mesh, region).write("CreateChannel", request).channel, as_json, mesh)


@app.command()
def update(
    channel_id: ChannelId,
    title: Title = None,
    home: HomeRegion = None,
    file: File = None,
    url: Url = None,
    pattern: TestPicture = None,
    width: Width = None,
    height: Height = None,
    kbps: Kbps = None,
    frame_rate: FrameRate = None,
    pinned: Annotated[
        bool | None, typer.Option("--pinned/--not-pinned", help="No move except on loss.")
    ] = None,
    add_label: Annotated[list[str] | None, typer.Option(help="A label to add.")] = None,
    remove_label: Annotated[list[str] | None, typer.Option(help="A label to remove.")] = None,
    mesh: MeshPath = MESH,
    region: Prefer = "",
    as_json: AsJson = False,
) -> None:
    """Changes what is named, and nothing else."""
    from google.protobuf.field_mask_pb2 import FieldMask
    from isthmus.channels.v1.channels_pb2 import ChannelUpdate, UpdateChannelRequest

    from mesh.cli.exits import CommandError, Exit

    source = _source(file, url, pattern)
    named = {
        "title": title,
        "home_region": home,
        "source": source,
        "pinned": pinned,
        "profile.width": width,
        "profile.height": height,
        "profile.video_kbps": kbps,
        "profile.frame_rate": frame_rate,
    }
    paths = [path for path, value in named.items() if value is not None]
    if not (paths or add_label or remove_label):
        raise CommandError("name something to change, such as --title", Exit.USAGE)
    request = UpdateChannelRequest(
        channel_id=channel_id,
        update=ChannelUpdate(
            title=title or "",
            home_region=home or "",
            source=source,
            profile=_profile(width, height, kbps, frame_rate),
            pinned=bool(pinned),
        ),
        update_mask=FieldMask(paths=paths),
        add_labels=add_label or (),
        remove_labels=remove_label or (),
    )
    _show(_channels(mesh, region).write("UpdateChannel", request).channel, as_json, mesh)


@app.command()
def start(
    channel_id: ChannelId, mesh: MeshPath = MESH, region: Prefer = "", as_json: AsJson = False
) -> None:
    """Wants a channel on air."""
    from isthmus.channels.v1.channels_pb2 import StartChannelRequest

    reply = _channels(mesh, region).write(
        "StartChannel", StartChannelRequest(channel_id=channel_id)
    )
    _show(reply.channel, as_json, mesh)


@app.command()
def stop(
    channel_id: ChannelId, mesh: MeshPath = MESH, region: Prefer = "", as_json: AsJson = False
) -> None:
    """Wants a channel off air."""
    from isthmus.channels.v1.channels_pb2 import StopChannelRequest

    reply = _channels(mesh, region).write("StopChannel", StopChannelRequest(channel_id=channel_id))
    _show(reply.channel, as_json, mesh)


@app.command()
def delete(
    channel_id: ChannelId, mesh: MeshPath = MESH, region: Prefer = "", as_json: AsJson = False
) -> None:
    """Deletes a channel that is stopped."""
    from isthmus.channels.v1.channels_pb2 import DeleteChannelRequest

    from mesh.cli import output

    _channels(mesh, region).write("DeleteChannel", DeleteChannelRequest(channel_id=channel_id))
    output.print_deleted("channel_id", channel_id, as_json)


@app.command()
def get(
    channel_id: ChannelId, mesh: MeshPath = MESH, region: Prefer = "", as_json: AsJson = False
) -> None:
    """Shows one channel."""
    from isthmus.channels.v1.channels_pb2 import GetChannelRequest

    reply = _channels(mesh, region).read("GetChannel", GetChannelRequest(channel_id=channel_id))
    _show(reply.channel, as_json, mesh)


@app.command("list")
def list_channels(mesh: MeshPath = MESH, region: Prefer = "", as_json: AsJson = False) -> None:
    """Shows all channels, in the order of their ids."""
    from isthmus.channels.v1.channels_pb2 import ListChannelsRequest

    from mesh.cli import output

    replies = _channels(mesh, region).pages("ListChannels", ListChannelsRequest(page_size=500))
    channels = [channel for reply in replies for channel in reply.channels]
    if as_json:
        return output.print_json({"channels": channels})
    return output.print_table(
        ("CHANNEL", "TITLE", "HOME", "WANTED", "ENCODER", "STANDBY", "PINNED"),
        (
            (
                channel.channel_id,
                channel.title or "-",
                channel.home_region,
                wanted(channel),
                channel.assignment.device_id or "-",
                channel.assignment.standby_device_id or "-",
                "yes" if channel.pinned else "no",
            )
            for channel in channels
        ),
        "There is no channel yet: try `isthmus channels create news --start`.",
    )


@app.command()
def history(
    channel_id: ChannelId, mesh: MeshPath = MESH, region: Prefer = "", as_json: AsJson = False
) -> None:
    """Shows who did what to a channel, and from where; the newest first."""
    from isthmus.channels.v1.channels_pb2 import ListChannelHistoryRequest

    from mesh.cli import output

    request = ListChannelHistoryRequest(channel_id=channel_id, page_size=500)
    replies = _channels(mesh, region).pages("ListChannelHistory", request)
    changes = [change for reply in replies for change in reply.changes]
    if as_json:
        return output.print_json({"changes": changes})
    return output.print_table(
        ("TIME", "REGION", "WHO", "WHAT"),
        (
            (
                output.local_time(change.time.ToDatetime()),
                change.region,
                change.actor.removeprefix("spiffe://").partition("/")[2],
                "deleted" if change.deleted else ", ".join(change.fields),
            )
            for change in changes
        ),
        "Nothing happened to it yet.",
    )


def wanted(channel: Channel) -> str:
    """``on air`` or ``stopped``."""
    from isthmus.channels.v1 import channel_pb2

    return "on air" if channel.intent == channel_pb2.INTENT_ON_AIR else "stopped"


def source_name(source: Source) -> str:
    """The source in one word or two."""
    from isthmus.channels.v1 import channel_pb2

    match source.WhichOneof("source"):
        case "file":
            return f"file {source.file}"
        case "url":
            return source.url
        case "test_pattern":
            name = channel_pb2.TestPattern.Name(source.test_pattern)
            return f"test picture {name.removeprefix('TEST_PATTERN_').lower()}"
        case _:
            return "none"


def _show(channel: Channel, as_json: bool, mesh: Path) -> None:
    from isthmus.channels.v1 import channel_pb2

    from mesh.cli import output
    from mesh.topology import load

    if as_json:
        return output.print_json(channel)
    assignment = channel.assignment
    reason = channel_pb2.AssignmentReason.Name(assignment.reason)
    why = reason.removeprefix("ASSIGNMENT_REASON_").lower().replace("_", " ")
    profile = channel.profile
    return output.print_fields(
        (
            ("channel", channel.channel_id),
            ("title", channel.title),
            ("home", channel.home_region),
            ("wanted", wanted(channel) + (", pinned" if channel.pinned else "")),
            ("source", source_name(channel.source)),
            (
                "profile",
                f"{profile.width or 320}x{profile.height or 180}, {profile.frame_rate or 10}/s, "
                f"{profile.video_kbps or 300} kbit/s",
            ),
            ("encoder", assignment.device_id or "none"),
            ("standby", assignment.standby_device_id),
            ("decided", f"by {assignment.region}: {why}" if assignment.epoch else ""),
            ("takeovers", str(channel.takeovers or "")),
            ("labels", ", ".join(channel.labels)),
            ("playlist", f"http://{load(mesh).origin}/{channel.channel_id}/live.m3u8"),
        )
    )


def _source(file: str | None, url: str | None, pattern: Pattern | None) -> Source | None:
    from isthmus.channels.v1 import channel_pb2

    from mesh.cli.exits import CommandError, Exit

    if sum(each is not None for each in (file, url, pattern)) > 1:
        raise CommandError("name one source: --file, --url or --pattern", Exit.USAGE)
    if file is not None:
        return channel_pb2.Source(file=file)
    if url is not None:
        return channel_pb2.Source(url=url)
    if pattern is not None:
        value = channel_pb2.TestPattern.Value(f"TEST_PATTERN_{pattern.name}")
        return channel_pb2.Source(test_pattern=value)
    return None


def _profile(
    width: int | None, height: int | None, kbps: int | None, frame_rate: int | None
) -> Profile:
    from isthmus.channels.v1.channel_pb2 import Profile

    from mesh.cli.exits import CommandError, Exit

    if any(each is not None and each < 0 for each in (width, height, kbps, frame_rate)):
        raise CommandError("a profile's numbers are 0 (the default) or more", Exit.USAGE)
    return Profile(
        width=width or 0, height=height or 0, video_kbps=kbps or 0, frame_rate=frame_rate or 0
    )


def _channels(mesh: Path, region: str) -> Calls:
    from isthmus.channels.v1.channels_pb2_grpc import ChannelServiceStub

    from mesh.cli.calls import Calls

    return Calls(mesh, region, ChannelServiceStub)
