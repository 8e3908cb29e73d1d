"""The methods of isthmus.channels.v1.ChannelService."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from isthmus.channels.v1 import channels_pb2 as api
from isthmus.channels.v1.channel_pb2 import INTENT_ON_AIR, INTENT_STOPPED, Channel, Intent
from isthmus.channels.v1.channels_pb2_grpc import ChannelServiceServicer

from mesh.replication import ChangeRecord, Group, Transaction
from mesh.runtime import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    call_context,
)
from services.channels import domain
from services.paging import page_by_key, page_of_log

Context = grpc.aio.ServicerContext[Any, Any]
M = TypeVar("M", bound=Message)


class ChannelService(ChannelServiceServicer):
    """Reads and writes the channels of its region's group; the reconciler does the rest."""

    def __init__(self, group: Group, regions: Sequence[str]) -> None:
        self._group = group
        self._regions = regions

    async def CreateChannel(
        self, request: api.CreateChannelRequest, context: Context
    ) -> api.CreateChannelResponse:
        """Creates a channel."""
        channel = domain.new_channel(request, self._group.region)
        _refuse(domain.violations_of_home("home_region", channel.home_region, self._regions))

        def change(transaction: Transaction) -> api.CreateChannelResponse:
            if transaction.get(Channel, channel.channel_id) is not None:
                raise AlreadyExists(
                    f"there is a channel {channel.channel_id!r} already",
                    reason="CHANNEL_EXISTS",
                    metadata={"channel_id": channel.channel_id},
                )
            transaction.create(channel)
            if request.labels:
                transaction.add(Channel, channel.channel_id, "labels", *request.labels)
            return api.CreateChannelResponse(channel=_get(transaction, channel.channel_id))

        return await self._write(change, request)

    async def UpdateChannel(
        self, request: api.UpdateChannelRequest, context: Context
    ) -> api.UpdateChannelResponse:
        """Changes the fields that the mask names, and labels."""
        try:
            paths = domain.expand_mask(request.update_mask.paths)
        except ValueError as error:
            raise InvalidArgument.fields({"update_mask": str(error)}) from None
        _refuse(domain.violations_of_update(request.update, paths, self._regions))
        if not (paths or request.add_labels or request.remove_labels):
            raise InvalidArgument.fields({"update_mask": "names nothing, and no label changes"})
        key = request.channel_id

        def change(transaction: Transaction) -> api.UpdateChannelResponse:
            _get(transaction, key)
            if paths:
                transaction.set(domain.updated(key, request.update), *paths)
            if request.add_labels:
                transaction.add(Channel, key, "labels", *request.add_labels)
            if request.remove_labels:
                transaction.remove(Channel, key, "labels", *request.remove_labels)
            return api.UpdateChannelResponse(channel=_get(transaction, key))

        return await self._write(change, request)

    async def StartChannel(
        self, request: api.StartChannelRequest, context: Context
    ) -> api.StartChannelResponse:
        """Wants the channel on air."""

        def change(transaction: Transaction) -> api.StartChannelResponse:
            return api.StartChannelResponse(
                channel=_intend(transaction, request.channel_id, INTENT_ON_AIR)
            )

        return await self._write(change, request)

    async def StopChannel(
        self, request: api.StopChannelRequest, context: Context
    ) -> api.StopChannelResponse:
        """Wants the channel off air."""

        def change(transaction: Transaction) -> api.StopChannelResponse:
            return api.StopChannelResponse(
                channel=_intend(transaction, request.channel_id, INTENT_STOPPED)
            )

        return await self._write(change, request)

    async def DeleteChannel(
        self, request: api.DeleteChannelRequest, context: Context
    ) -> api.DeleteChannelResponse:
        """Deletes a channel that is off air."""
        key = request.channel_id

        def change(transaction: Transaction) -> api.DeleteChannelResponse:
            channel = _get(transaction, key)
            if channel.intent == INTENT_ON_AIR or channel.assignment.device_id:
                raise FailedPrecondition(
                    f"channel {key!r} is on air: stop it first",
                    reason="CHANNEL_ON_AIR",
                    metadata={"channel_id": key},
                )
            transaction.delete(Channel, key)
            return api.DeleteChannelResponse()

        return await self._write(change, request)

    async def GetChannel(
        self, request: api.GetChannelRequest, context: Context
    ) -> api.GetChannelResponse:
        """One channel."""
        channel = self._group.get(Channel, request.channel_id)
        if channel is None:
            raise _not_found(request.channel_id)
        return api.GetChannelResponse(channel=channel)

    async def ListChannels(
        self, request: api.ListChannelsRequest, context: Context
    ) -> api.ListChannelsResponse:
        """Channels in the order of their ids."""
        found, token = page_by_key(
            self._group.list(Channel),
            lambda channel: channel.channel_id,
            request.page_size,
            request.page_token,
        )
        return api.ListChannelsResponse(channels=found, next_page_token=token)

    async def ListChannelHistory(
        self, request: api.ListChannelHistoryRequest, context: Context
    ) -> api.ListChannelHistoryResponse:
        """Who did what; also of a channel that was deleted."""
        records = self._group.history(Channel, request.channel_id)
        if not records and self._group.get(Channel, request.channel_id) is None:
            raise _not_found(request.channel_id)
        found, token = page_of_log(records, request.page_size, request.page_token)
        return api.ListChannelHistoryResponse(
            changes=[_change(record) for record in found], next_page_token=token
        )

    async def _write(self, change: Callable[[Transaction], M], request: Message) -> M:
        return await self._group.write(change, call_context(request))


def _get(transaction: Transaction, key: str) -> Channel:
    channel = transaction.get(Channel, key)
    if channel is None:
        raise _not_found(key)
    return channel


def _intend(transaction: Transaction, key: str, intent: Intent.ValueType) -> Channel:
    channel = _get(transaction, key)
    if channel.intent != intent:
        transaction.set(Channel(channel_id=key, intent=intent), "intent")
    return _get(transaction, key)


def _change(record: ChangeRecord) -> api.ChannelChange:
    time = Timestamp()
    time.FromMilliseconds(record.time_ms)
    return api.ChannelChange(
        actor=record.actor,
        region=record.origin.region,
        time=time,
        fields=record.fields,
        deleted=record.deleted,
        trace_parent=record.trace_parent,
    )


def _not_found(key: str) -> NotFound:
    return NotFound(
        f"there is no channel {key!r} here",
        reason="CHANNEL_NOT_FOUND",
        metadata={"channel_id": key},
    )


def _refuse(violations: dict[str, str]) -> None:
    if violations:
        raise InvalidArgument.fields(violations)
