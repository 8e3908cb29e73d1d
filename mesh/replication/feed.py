"""A group's feed: shown to other workloads of the region, and followed by them."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence

import grpc
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from isthmus.replication.v1 import feed_pb2, feed_pb2_grpc, frame_pb2

from mesh.replication import conflicts
from mesh.replication.core.clocks import origin_from_proto, vector_from_proto, vector_to_proto
from mesh.replication.errors import GroupClosed, NotReplicated, WatcherTooSlow
from mesh.replication.group import Group
from mesh.replication.views import (
    Batch,
    EntityChange,
    LastChange,
    MessageClass,
    Reach,
    ReachChanged,
    Snapshot,
    View,
    WatchEvent,
)

_log = logging.getLogger("isthmus.replication")

REACH_SECONDS = 1.0
SILENCE_SECONDS = 5.0
"""A feed on which nothing comes for so long is given up and opened again."""

_CHUNK_BYTES = 1 << 20
_BACKOFF_SECONDS = (0.1, 2.0)


class FeedServicer(feed_pb2_grpc.FeedServiceServicer):
    """Shows a group's entities as they change."""

    def __init__(self, group: Group) -> None:
        self._group = group

    async def Watch(
        self, request: feed_pb2.WatchRequest, context: grpc.ServicerContext
    ) -> AsyncIterator[feed_pb2.WatchResponse]:
        """Entities, `synced`, then changes and reach. A slow watcher gets RESOURCE_EXHAUSTED."""
        try:
            types = self._group.types(request.types) if request.types else None
        except NotReplicated as error:
            context.set_code(grpc.StatusCode.INVALID_ARGUMENT)
            context.set_details(str(error))
            return
        events = self._group.watch(types)
        following: asyncio.Task[WatchEvent] | None = None
        try:
            while True:
                if following is None:
                    following = asyncio.create_task(_next(events))
                await asyncio.wait({following}, timeout=REACH_SECONDS)
                if not following.done():
                    yield _reach(self._group.reach())
                    continue
                event = following.result()
                following = None
                for message in _messages(event):
                    yield message
        except WatcherTooSlow as error:
            context.set_code(grpc.StatusCode.RESOURCE_EXHAUSTED)
            context.set_details(str(error))
        except GroupClosed as error:
            context.set_code(grpc.StatusCode.UNAVAILABLE)
            context.set_details(str(error))
        finally:
            if following is not None:
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)


async def _next(events: AsyncIterator[WatchEvent]) -> WatchEvent:
    return await anext(events)


def _messages(event: WatchEvent) -> Iterable[feed_pb2.WatchResponse]:
    if isinstance(event, Snapshot):
        chunk: list[View] = []
        size = 0
        for view in event.entities:
            chunk.append(view)
            size += len(view.value)
            if size >= _CHUNK_BYTES:
                yield _entities(chunk)
                chunk, size = [], 0
        if chunk:
            yield _entities(chunk)
        yield _reach(event.reach)
        yield feed_pb2.WatchResponse(synced=feed_pb2.Synced(vector=vector_to_proto(event.vector)))
    elif isinstance(event, Batch):
        message = _entities([change.new for change in event.changes])
        message.entities.conflicts.extend(map(conflicts.to_proto, event.conflicts))
        yield message
    else:
        yield _reach(event.reach)


def _entities(views: Sequence[View]) -> feed_pb2.WatchResponse:
    return feed_pb2.WatchResponse(
        entities=feed_pb2.EntityBatch(entities=[_entity(view) for view in views])
    )


def _entity(view: View) -> feed_pb2.EntityView:
    origin = view.last_change.origin
    return feed_pb2.EntityView(
        type=view.type,
        key=view.key,
        value=view.value if view.shared is None else view.shared,
        deleted=view.deleted,
        generation=view.generation,
        last_change=feed_pb2.LastChange(
            actor=view.last_change.actor,
            origin=frame_pb2.Origin(region=origin.region, incarnation=origin.incarnation),
            time=_timestamp(view.last_change.time_ms),
        ),
    )


def _reach(reach: Mapping[str, Reach]) -> feed_pb2.WatchResponse:
    return feed_pb2.WatchResponse(
        reach=feed_pb2.Reach(
            regions=[
                feed_pb2.RegionReach(
                    region=region,
                    reachable=each.reachable,
                    last_heard=None
                    if each.last_heard_ms is None
                    else _timestamp(each.last_heard_ms),
                )
                for region, each in reach.items()
            ]
        )
    )


def _timestamp(milliseconds: int) -> Timestamp:
    found = Timestamp()
    found.FromMilliseconds(milliseconds)
    return found


async def follow_feed(
    channel: grpc.aio.Channel, types: Iterable[MessageClass]
) -> AsyncIterator[WatchEvent]:
    """Another workload's entities of these types, as they change; never ends by itself.

    Gives what `Group.watch` gives. After a break it reconnects, and a new Snapshot replaces all
    that came before. The caller owns the channel.
    """
    classes = {each.DESCRIPTOR.full_name: each for each in types}
    stub: feed_pb2_grpc.FeedServiceAsyncStub = feed_pb2_grpc.FeedServiceStub(channel)
    attempt = 0
    while True:
        try:
            async for event in _follow_once(stub, classes):
                attempt = 0
                yield event
            reason = "the feed ended"
        except grpc.aio.AioRpcError as error:
            if error.code() in (
                grpc.StatusCode.INVALID_ARGUMENT,
                grpc.StatusCode.PERMISSION_DENIED,
                grpc.StatusCode.UNIMPLEMENTED,
            ):
                _log.error("feed refused: %s: %s", error.code().name, error.details())
            reason = f"{error.code().name}: {error.details()}"
        except TimeoutError:
            reason = f"nothing came for {SILENCE_SECONDS:g} s"
        _log.info("feed of %s: %s; opening it again", ", ".join(classes), reason)
        least, most = _BACKOFF_SECONDS
        longest = min(most, least * 2**attempt)
        attempt += 1
        await asyncio.sleep(random.uniform(longest / 2, longest))  # noqa: S311 # jitter


async def _follow_once(
    stub: feed_pb2_grpc.FeedServiceAsyncStub, classes: Mapping[str, MessageClass]
) -> AsyncIterator[WatchEvent]:
    call = stub.Watch(feed_pb2.WatchRequest(types=sorted(classes)))
    known: dict[tuple[str, str], View] = {}
    reach: Mapping[str, Reach] = {}
    synced = False
    try:
        while True:
            async with asyncio.timeout(SILENCE_SECONDS):
                message = await call.read()
            if not isinstance(message, feed_pb2.WatchResponse):
                return  # the end of the stream
            kind = message.WhichOneof("message")
            if kind == "entities":
                changes = _learn(known, message.entities, classes)
                decided = tuple(
                    conflicts.from_proto(conflict, classes[conflict.type])
                    for conflict in message.entities.conflicts
                    if conflict.type in classes
                )
                if synced and (changes or decided):
                    yield Batch(changes, decided)
            elif kind == "synced":
                synced = True
                living = (view for _, view in sorted(known.items()) if not view.deleted)
                yield Snapshot(tuple(living), reach, vector_from_proto(message.synced.vector))
            elif kind == "reach":
                now = {
                    each.region: Reach(
                        each.reachable,
                        each.last_heard.ToMilliseconds() if each.HasField("last_heard") else None,
                    )
                    for each in message.reach.regions
                }
                changed = _standing(now) != _standing(reach)
                reach = now
                if synced and changed:
                    yield ReachChanged(reach)
    finally:
        call.cancel()


def _standing(reach: Mapping[str, Reach]) -> dict[str, bool]:
    return {region: each.reachable for region, each in reach.items()}


def _learn(
    known: dict[tuple[str, str], View],
    batch: feed_pb2.EntityBatch,
    classes: Mapping[str, type[Message]],
) -> tuple[EntityChange, ...]:
    changes = []
    for entity in batch.entities:
        if entity.type not in classes:
            continue
        last = entity.last_change
        view = View(
            type=entity.type,
            key=entity.key,
            generation=entity.generation,
            deleted=entity.deleted,
            last_change=LastChange(
                last.actor, origin_from_proto(last.origin), last.time.ToMilliseconds()
            ),
            value=entity.value,
            message_class=classes[entity.type],
        )
        changes.append(EntityChange(known.get((view.type, view.key)), view))
        known[view.type, view.key] = view
    return tuple(changes)
