"""What a channel is made of and how operators change it. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from isthmus.channels.v1.channel_pb2 import INTENT_ON_AIR, INTENT_STOPPED, Channel, Profile
from isthmus.channels.v1.channels_pb2 import ChannelUpdate, CreateChannelRequest

PROFILE_PATHS = tuple(f"profile.{field.name}" for field in Profile.DESCRIPTOR.fields)
_PATHS = ("title", "home_region", "source", "pinned", *PROFILE_PATHS)


def new_channel(request: CreateChannelRequest, region: str) -> Channel:
    """The channel that a request asks for, without its labels; `region` is the serving one."""
    return Channel(
        channel_id=request.channel_id,
        title=request.title,
        home_region=request.home_region or region,
        source=request.source,
        profile=request.profile,
        intent=INTENT_ON_AIR if request.start else INTENT_STOPPED,
        pinned=request.pinned,
    )


def expand_mask(paths: Iterable[str]) -> list[str]:
    """The single fields that a mask names, each once. Raises `ValueError` for one that is none."""
    expanded: list[str] = []
    for path in paths:
        if path == "profile":
            expanded.extend(PROFILE_PATHS)
        elif path in _PATHS:
            expanded.append(path)
        else:
            known = ", ".join((*_PATHS[:4], "profile", *PROFILE_PATHS))
            raise ValueError(f"{path!r} cannot be changed: name any of {known}")
    return list(dict.fromkeys(expanded))


def violations_of_update(
    update: ChannelUpdate, paths: Collection[str], regions: Collection[str]
) -> dict[str, str]:
    """What is wrong with an update beyond its values, by field."""
    found: dict[str, str] = {}
    if "home_region" in paths:
        found |= violations_of_home("update.home_region", update.home_region, regions)
    if "source" in paths and not update.source.WhichOneof("source"):
        found["update.source"] = "the mask names it, and it is not there"
    return found


def violations_of_home(field: str, region: str, regions: Collection[str]) -> dict[str, str]:
    """A violation if the region is none of the mesh's."""
    if region in regions:
        return {}
    return {field: f"{region!r} is no region: write one of {', '.join(sorted(regions))}"}


def updated(channel_id: str, update: ChannelUpdate) -> Channel:
    """A channel that carries an update's values."""
    return Channel(
        channel_id=channel_id,
        title=update.title,
        home_region=update.home_region,
        source=update.source,
        profile=update.profile,
        pinned=update.pinned,
    )
