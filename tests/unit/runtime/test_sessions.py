"""Tokens in and out of calls, over a real server and a real group."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from isthmus.channels.v1.channel_pb2 import Channel, Source
from isthmus.channels.v1.channels_pb2 import CreateChannelRequest, GetChannelRequest

from mesh.contracts.model import Consistency, Durability
from mesh.replication import Group, Origin, WriteContext, tokens
from mesh.runtime.context import call_context
from mesh.runtime.session_tokens import METADATA_KEY, SessionTokens
from mesh.runtime.sessions import Sessions
from tests.support.regions import contract
from tests.unit.runtime.serving import (
    RULES,
    SERVICE,
    call,
    operator,
    reason_of,
    serving,
    through_edge,
)

UNARY = f"/{SERVICE}/Unary"
ANN = through_edge(operator())
READING = {UNARY: replace(RULES[UNARY], consistency=Consistency.SESSION, timeout=5.0)}
WRITING = {UNARY: replace(RULES[UNARY], durability=Durability.ONE_PEER, timeout=2)}


class Writer:
    """Creates the channel that it is asked for."""

    def __init__(self, group: Group) -> None:
        self._group = group

    async def Unary(self, request: CreateChannelRequest, context: Any) -> GetChannelRequest:
        def change(transaction: Any) -> Channel:
            transaction.create(Channel(channel_id=request.channel_id))
            return Channel(channel_id=request.channel_id)

        await self._group.write(change, call_context(request))
        return GetChannelRequest(channel_id=request.channel_id)


class Reader:
    """Counts its calls."""

    calls = 0

    async def Unary(self, request: CreateChannelRequest, context: Any) -> GetChannelRequest:
        self.calls += 1
        return GetChannelRequest(channel_id=request.channel_id)


@pytest.fixture
async def group(tmp_path: Path) -> AsyncIterator[Group]:
    group = await Group.open(
        contract(), "channels", region="eu", peers=["us"], folder=tmp_path / "eu"
    )
    yield group
    await group.close()


@pytest.fixture
def sessions(group: Group) -> Sessions:
    sessions = Sessions()
    sessions.open(group)
    return sessions


def create(transaction: Any) -> Channel:
    transaction.create(Channel(channel_id="first"))
    return Channel()


def request(channel_id: str) -> CreateChannelRequest:
    return CreateChannelRequest(channel_id=channel_id, source=Source(file="news.mp4"))


async def asking(channel: grpc.aio.Channel, token: bytes, seconds: float) -> Any:
    start = channel.unary_unary(
        UNARY,
        request_serializer=CreateChannelRequest.SerializeToString,
        response_deserializer=GetChannelRequest.FromString,
    )
    metadata = [("x-forwarded-client-cert", ANN), (METADATA_KEY, token)]
    return await start(request("news"), metadata=metadata, timeout=seconds)


async def test_a_client_carries_what_it_wrote(
    tmp_path: Path, group: Group, sessions: Sessions
) -> None:
    carried = SessionTokens()
    rules = {UNARY: replace(RULES[UNARY], timeout=5.0)}
    async with serving(
        tmp_path, Writer(group), rules=rules, sessions=sessions, client=[carried]
    ) as channel:
        for number in range(1, 4):
            await call(channel, "Unary", request(f"c{number}"), ANN)
            assert tokens.decode(carried.token) == {"channels": {group.journal.origin: number}}
        assert len(carried.token) < 40


async def test_a_session_method_waits_until_its_region_has_it(
    tmp_path: Path, group: Group, sessions: Sessions
) -> None:
    origin = group.journal.origin
    token = tokens.encode({"channels": {origin: 1}})
    reader = Reader()
    async with serving(tmp_path, reader, rules=READING, sessions=sessions) as channel:
        waiting = asyncio.create_task(asking(channel, token, 5))
        while not group._committing._waiters:  # until the call is there
            await asyncio.sleep(0.01)
        assert reader.calls == 0
        await group.write(create, WriteContext(actor="operator/first"))
        assert (await waiting).channel_id == "news"


async def test_not_yet_here_comes_before_the_deadline(tmp_path: Path, sessions: Sessions) -> None:
    beyond = tokens.encode({"channels": {Origin("us", 7): 3}, "devices": {Origin("us", 7): 9}})
    reader = Reader()
    async with serving(tmp_path, reader, rules=READING, sessions=sessions) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as late:
            await asking(channel, beyond, 3)
        # Not DEADLINE_EXCEEDED; and a status that neither retries nor outlier detection act on.
        assert late.value.code() is grpc.StatusCode.ABORTED
        info = reason_of(late.value)
        assert info.reason == "NOT_YET_HERE"
        assert dict(info.metadata) == {"group": "channels", "us#7": "3"}
    # Who does not promise it answers at once, and passes on what the caller had seen.
    carried = SessionTokens()
    carried.take(beyond, b"")
    other = tmp_path / "2"  # a socket of its own: the first one's client may not have let go of it
    other.mkdir()
    async with serving(other, reader, sessions=sessions, client=[carried]) as channel:
        await call(channel, "Unary", request("news"), ANN)
    assert tokens.decode(carried.token) == tokens.decode(beyond)
    assert reader.calls == 1


async def test_a_damaged_token_is_refused(tmp_path: Path, sessions: Sessions) -> None:
    async with serving(tmp_path, Reader(), rules=READING, sessions=sessions) as channel:
        with pytest.raises(grpc.aio.AioRpcError, match="it is no token") as refused:
            await asking(channel, b"\xff\xff", 5)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert reason_of(refused.value).reason == "TOKEN_DAMAGED"


async def test_a_write_that_no_peer_has_is_pending(
    tmp_path: Path, group: Group, sessions: Sessions
) -> None:
    async with serving(tmp_path, Writer(group), rules=WRITING, sessions=sessions) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as pending:
            await call(channel, "Unary", request("news"), ANN)
        assert pending.value.code() is grpc.StatusCode.ABORTED
        info = reason_of(pending.value)
        assert info.reason == "DURABILITY_PENDING"
        assert dict(info.metadata) == {"durable_in": "eu", "needed": "2"}
    assert group.get(Channel, "news") is not None


def test_responses_at_once_add_up() -> None:
    carried = SessionTokens()
    eu, us = Origin("eu", 1), Origin("us", 1)

    def take(sent: bytes, **seen: dict[Origin, int]) -> dict[str, dict[Origin, int]]:
        carried.take(tokens.encode(seen), sent)
        return tokens.decode(carried.token)

    before = carried.token
    assert take(before, channels={eu: 5}) == {"channels": {eu: 5}}
    # Another call that was sent before has an older answer.
    assert take(before, channels={eu: 3, us: 2}) == {"channels": {eu: 5, us: 2}}
    # A call after both, answered with less: it stands for what was sent.
    assert take(carried.token, channels={us: 9}) == {"channels": {us: 9}}
