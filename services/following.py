"""Following the own group for as long as the process runs."""

from __future__ import annotations

from collections.abc import AsyncIterator

from google.protobuf.message import Message

from mesh.replication import Group, WatcherTooSlow, WatchEvent


async def follow(group: Group, *types: type[Message]) -> AsyncIterator[WatchEvent]:
    """A snapshot, then what changes; another snapshot whenever this side fell behind."""
    while True:
        try:
            async for event in group.watch(types):
                yield event
        except WatcherTooSlow:
            continue
