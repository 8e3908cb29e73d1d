"""The steps of the story. Each does one thing, waits until it shows, and says what it measured."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.field_mask_pb2 import FieldMask
from isthmus.channels.v1.channel_pb2 import TEST_PATTERN_BARS, Channel, Profile, Source
from isthmus.channels.v1.channels_pb2 import (
    ChannelUpdate,
    CreateChannelRequest,
    GetChannelRequest,
    UpdateChannelRequest,
)
from isthmus.channels.v1.channels_pb2_grpc import ChannelServiceStub
from isthmus.devices.v1.device_pb2 import DUTY_MAINTENANCE
from isthmus.devices.v1.devices_pb2 import SetDutyRequest
from isthmus.devices.v1.devices_pb2_grpc import DeviceServiceStub
from isthmus.overview.v1.overview_pb2 import CHANNEL_STATE_ON_AIR, ChannelView

from mesh.cli.story.air import LivePlaylist, decodes, encoders, fetch
from mesh.cli.story.stage import NotHeld, Stage, until

CHANNEL = "evening-news"
TAKEOVER_WITHIN = 5.0
_PATIENCE = 30.0


@dataclass
class Story:
    """What the steps share: who plays which part, and what one left for the next."""

    stage: Stage
    scratch: Path
    channel_id: str = CHANNEL
    digests: dict[str, str] = field(default_factory=dict)
    lost: str = ""

    @property
    def home(self) -> str:
        """The region where the channel is created."""
        return self.stage.regions[0]

    @property
    def remote(self) -> str:
        """The region that is cut off."""
        return self.stage.regions[-1]

    @property
    def url(self) -> str:
        """The channel's one playlist URL."""
        return f"http://{self.stage.topology.origin}/{self.channel_id}/live.m3u8"


async def devices_enrol(story: Story) -> str:
    """Every device got its certificate and holds a stream to its own region's gateway."""
    wanted = {device.device_id for device in story.stage.topology.devices}

    async def connected() -> set[str] | None:
        picture = await story.stage.overview(story.home)
        found = {
            device.device_id
            for device in picture.devices
            if device.session.epoch and not device.session.connected_rank
        }
        return found if found >= wanted else None

    found, _ = await until(connected, 60, "all devices are connected")
    return f"{len(found)} devices hold a stream to their gateway"


async def channel_goes_on_air(story: Story) -> str:
    """A channel created through the home region's edge has a playlist that advances and decodes."""
    created = await _channels(
        story,
        story.home,
        "CreateChannel",
        CreateChannelRequest(
            channel_id=story.channel_id,
            title="Evening news",
            home_region=story.home,
            source=Source(test_pattern=TEST_PATTERN_BARS),
            start=True,
        ),
    )
    if created.channel.home_region != story.home:
        raise NotHeld(f"its home is {created.channel.home_region}, not {story.home}")
    live = await _on_air(story, None)
    problem = await decodes(live.segment, story.scratch)
    if problem:
        raise NotHeld(f"its last segment does not decode: {problem}")
    view = await _view(story, story.home)
    return f"{view.channel.assignment.device_id} encodes it; the playlist advances and decodes"


async def others_see_it(story: Story) -> str:
    """The other regions' overviews show the channel on air."""

    async def seen() -> bool:
        views = await asyncio.gather(
            *(story.stage.channel(region, story.channel_id) for region in story.stage.regions[1:])
        )
        return all(view is not None and view.state == CHANNEL_STATE_ON_AIR for view in views)

    await until(seen, _PATIENCE, "every region's overview shows the channel on air")
    return f"on air in the overviews of {', '.join(story.stage.regions[1:])}"


async def standby_takes_over(story: Story) -> str:
    """kill -9 to the channel's encoder: within 5 s the standby has it, and the picture returns."""
    before = await _view(story, story.home)
    lost = before.channel.assignment.device_id
    live = await fetch(story.url)
    await story.stage.control.ask("device-kill", device_id=lost)

    async def replaced() -> str | None:
        view = await story.stage.channel(story.home, story.channel_id)
        device = view.channel.assignment.device_id if view is not None else ""
        return device if device not in ("", lost) else None

    device, took = await until(replaced, _PATIENCE, "another device has the channel")
    if took > TAKEOVER_WITHIN:
        raise NotHeld(f"the standby took over after {took:.1f} s, not {TAKEOVER_WITHIN:.0f} s")
    await _on_air(story, live)
    gap = await _gap(story, story.home, device)
    await story.stage.control.ask("device-start", device_id=lost)
    return f"{lost} killed; {device} took over in {took:.1f} s; {gap:.1f} s of picture lost"


async def both_sides_write(story: Story) -> str:
    """One region is cut off; both sides accept writes to the same channel, and both encode it."""
    await story.stage.control.ask("wan-cut", region=story.remote)

    async def alone() -> bool:
        picture = await story.stage.overview(story.remote)
        return all(
            not region.reachable for region in picture.regions if region.region != story.remote
        )

    await until(alone, _PATIENCE, f"{story.remote} knows that it is alone")
    here = _update(story, ChannelUpdate(title="News, as home has it"), "title", label="sports")
    there = _update(
        story,
        ChannelUpdate(title="News, as the island has it", profile=Profile(video_kbps=350)),
        *("title", "profile.video_kbps"),
        label="live",
    )
    loop = asyncio.get_running_loop()
    began = loop.time()
    await asyncio.gather(
        _channels(story, story.home, "UpdateChannel", here),
        _channels(story, story.remote, "UpdateChannel", there),
    )
    took = loop.time() - began
    near, far = await asyncio.gather(_read(story, story.home), _read(story, story.remote))
    if near.title == far.title or near.profile.video_kbps == 350:
        raise NotHeld("a write crossed the cut")

    async def island_encodes() -> str | None:
        view = await story.stage.channel(story.remote, story.channel_id)
        if view is None or view.channel.assignment.region != story.remote:
            return None
        running = [e.device_id for e in view.encodings if e.gateway_region == story.remote]
        return running[0] if view.state == CHANNEL_STATE_ON_AIR and running else None

    device, _ = await until(island_encodes, _PATIENCE, f"{story.remote} encodes it too")
    return (
        f"{story.remote} cut off; both sides accepted their writes in {took * 1000:.0f} ms; "
        f"{device} encodes there too"
    )


async def heal_converges(story: Story) -> str:
    """The cut heals: nothing is lost, and all regions hold identical digests."""
    await story.stage.control.ask("wan-heal")

    async def merged() -> list[Channel] | None:
        channels = await asyncio.gather(*(_read(story, name) for name in story.stage.regions))
        whole = all(
            channel.profile.video_kbps == 350 and {"sports", "live"} <= set(channel.labels)
            for channel in channels
        )
        return channels if whole and len({channel.title for channel in channels}) == 1 else None

    await until(merged, _PATIENCE, "every region has the writes of both sides, and one title")
    return await _converge(story)


async def another_adopts(story: Story) -> str:
    """The region that encodes the channel dies; another takes it, and it is on air again.

    Both sides of the cut had decided alone; which of them encodes now, the higher decision says.
    """
    homes = {device.device_id: device.region for device in story.stage.topology.devices}
    # The losing side's encoder may still be stopping.
    story.lost = homes[(await _settled(story)).channel.assignment.device_id]
    live = await fetch(story.url)
    watcher = next(name for name in story.stage.regions if name != story.lost)
    await story.stage.control.ask("region-kill", region=story.lost)

    async def adopted() -> ChannelView | None:
        view = await story.stage.channel(watcher, story.channel_id)
        device = view.channel.assignment.device_id if view is not None else ""
        return view if device and homes[device] != story.lost else None

    view, took = await until(adopted, 60, f"another region took the channel of {story.lost}")
    await _on_air(story, live)
    device = view.channel.assignment.device_id
    gap = await _gap(story, watcher, device)
    return (
        f"{story.lost} killed; {homes[device]} adopted it on {device} in "
        f"{took:.1f} s; {gap:.1f} s of picture lost"
    )


async def region_returns(story: Story) -> str:
    """The region returns; all converge, and exactly one encoder remains."""
    await story.stage.control.ask("region-start", within=120, region=story.lost)

    async def one_encoder() -> str | None:
        views = await asyncio.gather(
            *(story.stage.channel(name, story.channel_id) for name in story.stage.regions)
        )
        running = {
            tuple(encoding.device_id for encoding in view.encodings) if view is not None else ()
            for view in views
        }
        if len(running) != 1 or len(only := running.pop()) != 1:
            return None
        processes = encoders(story.stage.layout.origin / story.channel_id)
        return only[0] if len(processes) == 1 else None

    device, _ = await until(one_encoder, 60, "every region sees the same one encoder")
    await _on_air(story, None)
    return f"only {device} encodes; " + await _converge(story)


async def stranger_is_denied(story: Story) -> str:
    """A workload calls what the contract does not allow it, past its sidecar and through it."""
    topology = story.stage.topology
    place = story.stage.layout.place(story.home, "overview")
    request = SetDutyRequest(device_id=topology.devices[0].device_id, duty=DUTY_MAINTENANCE)
    identity = place.identity
    credentials = grpc.ssl_channel_credentials(
        (identity / "trust.crt").read_bytes(),
        (identity / "tls.key").read_bytes(),
        (identity / "tls.crt").read_bytes(),
    )
    name = f"devices.{story.home}.{topology.trust_domain}"
    ways: Sequence[tuple[str, grpc.aio.Channel]] = (
        (
            "devices' sidecar",
            grpc.aio.secure_channel(
                str(topology.inbound(story.home, "devices")),
                credentials,
                options=[("grpc.ssl_target_name_override", name)],
            ),
        ),
        (
            "its own sidecar",
            grpc.aio.insecure_channel(
                f"unix:{place.egress_socket}", options=[("grpc.default_authority", "devices")]
            ),
        ),
    )
    for who, channel in ways:
        async with channel:
            try:
                await DeviceServiceStub(channel).SetDuty(request, timeout=5)
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.PERMISSION_DENIED:
                    continue
                raise NotHeld(f"{who} answered {error.code().name}: {error.details()}") from None
        raise NotHeld(f"{who} let overview call SetDuty")
    return "overview may not call SetDuty: its own sidecar and devices' sidecar refuse"


async def _channels(
    story: Story, region: str, method: str, request: CreateChannelRequest | UpdateChannelRequest
) -> Any:
    request.request_id = str(uuid.uuid4())
    return await story.stage.edges(region).call(
        lambda channel: getattr(ChannelServiceStub(channel), method)(request, timeout=8),
        repeatable=True,
    )


async def _read(story: Story, region: str) -> Channel:
    reply = await story.stage.edges(region).call(
        lambda channel: ChannelServiceStub(channel).GetChannel(
            GetChannelRequest(channel_id=story.channel_id), timeout=3
        ),
        repeatable=True,
    )
    found: Channel = reply.channel
    return found


def _update(story: Story, update: ChannelUpdate, *paths: str, label: str) -> UpdateChannelRequest:
    return UpdateChannelRequest(
        channel_id=story.channel_id,
        update=update,
        update_mask=FieldMask(paths=paths),
        add_labels=[label],
    )


async def _view(story: Story, region: str) -> ChannelView:
    async def look() -> ChannelView | None:
        return await story.stage.channel(region, story.channel_id)

    view, _ = await until(look, _PATIENCE, f"{region}'s overview has the channel")
    return view


async def _settled(story: Story) -> ChannelView:
    """The channel once all regions see it on air, on one and the same encoder."""

    async def look() -> ChannelView | None:
        views = await asyncio.gather(
            *(story.stage.channel(region, story.channel_id) for region in story.stage.regions)
        )
        seen = [view for view in views if view is not None]
        if len(seen) < len(views) or any(v.state != CHANNEL_STATE_ON_AIR for v in seen):
            return None
        decided = seen[0].channel.assignment
        agreed = all(view.channel.assignment == decided for view in seen)
        running = {encoding.device_id for view in seen for encoding in view.encodings}
        return seen[0] if agreed and running == {decided.device_id} else None

    view, _ = await until(look, _PATIENCE, "all regions see the channel on one encoder")
    return view


async def _on_air(story: Story, before: LivePlaylist | None) -> LivePlaylist:
    """Waits until the playlist is beyond `before`, and then once more until it advances."""
    last = -1 if before is None else before.last
    for _ in range(2):

        async def further(than: int = last) -> LivePlaylist | None:
            live = await fetch(story.url)
            return live if live is not None and live.last > than else None

        live, _ = await until(further, 60, f"{story.url} advances")
        last = live.last
    return live


async def _gap(story: Story, region: str, device_id: str) -> float:
    """Seconds of picture lost, as the device measured and reported them."""

    async def reported() -> tuple[float] | None:
        view = await story.stage.channel(region, story.channel_id)
        for running in view.encodings if view is not None else ():
            if running.device_id == device_id and running.encoding.HasField("gap_seconds"):
                return (running.encoding.gap_seconds,)
        return None

    (gap,), _ = await until(reported, _PATIENCE, f"{device_id} reports the gap in the picture")
    return gap


async def _converge(story: Story) -> str:
    digests, took = await until(
        story.stage.converged, 60, "all regions hold identical digests at one vector"
    )
    story.digests = digests
    said = ", ".join(f"{group} {digest[:12]}" for group, digest in digests.items())
    return f"identical digests in {took:.1f} s: {said}"
