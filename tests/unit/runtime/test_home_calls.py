"""Methods of LOCALITY_HOME: refused where another region is the home, and repeated there."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from isthmus.channels.v1.channel_pb2 import Channel
from isthmus.channels.v1.channels_pb2 import CreateChannelRequest, GetChannelRequest

from mesh.contracts.model import Contract, Field, Merge
from mesh.replication import Group, Transaction, WriteContext
from mesh.runtime.home_calls import HOME_HEADER, HomeCalls
from mesh.runtime.sessions import Sessions
from tests.support.regions import CHANNEL, contract
from tests.unit.runtime.serving import RULES, SERVICE, call, operator, serving, through_edge
from tests.unit.runtime.test_sessions import Reader, request

UNARY = f"/{SERVICE}/Unary"
ANN = through_edge(operator())
AT_HOME = {UNARY: replace(RULES[UNARY], entity=CHANNEL, key="channel_id")}


def homed() -> Contract:
    """The channels group, each channel written in one region."""
    entity = contract().entities[CHANNEL]
    home = Field("home_region", 3, (3,), Merge.FIRST)
    entity = replace(entity, fields=(*entity.fields, home), home="home_region")
    return replace(contract(), entities={CHANNEL: entity})


@pytest.fixture
async def sessions(tmp_path: Path) -> AsyncIterator[Sessions]:
    """Of region eu: `away` has its home in us, `here` in eu."""
    group = await Group.open(homed(), "channels", region="eu", peers=["us"], folder=tmp_path / "eu")

    def change(transaction: Transaction) -> Channel:
        for key in ("away", "here"):
            transaction.create(Channel(channel_id=key))
        transaction.move_home(Channel, "away", "us")
        return Channel()

    await group.write(change, WriteContext("operator/ann"))
    sessions = Sessions()
    sessions.open(group)
    yield sessions
    await group.close()


class Homes(grpc.aio.ServerInterceptor):
    """Notes which homes calls name."""

    def __init__(self) -> None:
        self.named: list[str] = []

    async def intercept_service(
        self, continuation: Callable[..., Any], details: grpc.HandlerCallDetails
    ) -> Any:
        self.named.append(str(dict(details.invocation_metadata or ()).get(HOME_HEADER, "")))
        return await continuation(details)


async def ask(
    folder: Path, sessions: Sessions, key: str, *client: grpc.aio.ClientInterceptor
) -> tuple[list[str], int, grpc.StatusCode]:
    """The homes that were named to the server, how often the method ran, and the status."""
    homes, reader = Homes(), Reader()
    async with serving(
        folder, reader, rules=AT_HOME, before=[homes], sessions=sessions, client=client
    ) as channel:
        started = call(channel, "Unary", request(key), ANN)
        code = await started.code()
    return homes.named, reader.calls, code


async def test_another_region_refuses_before_the_method_runs(
    tmp_path: Path, sessions: Sessions
) -> None:
    refused = grpc.StatusCode.FAILED_PRECONDITION
    assert await ask(tmp_path, sessions, "away") == ([""], 0, refused)


@pytest.mark.parametrize("key", ["here", "new"])
async def test_the_home_answers_and_so_does_anyone_for_what_is_new(
    tmp_path: Path, sessions: Sessions, key: str
) -> None:
    assert await ask(tmp_path, sessions, key, HomeCalls()) == ([""], 1, grpc.StatusCode.OK)


async def test_a_client_asks_once_more_and_names_the_home(
    tmp_path: Path, sessions: Sessions
) -> None:
    # Here the same server answers again; in a mesh the header leads to the home.
    refused = grpc.StatusCode.FAILED_PRECONDITION
    assert await ask(tmp_path, sessions, "away", HomeCalls()) == (["", "us"], 0, refused)


async def test_a_client_gets_the_homes_answer(tmp_path: Path, sessions: Sessions) -> None:
    class Home(grpc.aio.ServerInterceptor):
        """Stands for the home: what names it is answered by it."""

        async def intercept_service(
            self, continuation: Callable[..., Any], details: grpc.HandlerCallDetails
        ) -> Any:
            if HOME_HEADER not in dict(details.invocation_metadata or ()):
                return await continuation(details)

            async def answer(asked: CreateChannelRequest, _: Any) -> GetChannelRequest:
                return GetChannelRequest(channel_id=f"{asked.channel_id} of us")

            return grpc.unary_unary_rpc_method_handler(
                answer,
                CreateChannelRequest.FromString,
                GetChannelRequest.SerializeToString,
            )

    async with serving(
        tmp_path, Reader(), rules=AT_HOME, before=[Home()], sessions=sessions, client=[HomeCalls()]
    ) as channel:
        answered = await call(channel, "Unary", request("away"), ANN)
        assert answered.channel_id == "away of us"
