"""Clients outside of the mesh: failing over between edges, with rotating certificates."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from isthmus.channels.v1.channels_pb2 import GetChannelRequest, GetChannelResponse
from isthmus.channels.v1.channels_pb2_grpc import (
    ChannelServiceServicer,
    ChannelServiceStub,
    add_ChannelServiceServicer_to_server,
)

from mesh.identity import authority, folder, keys, spiffe
from mesh.runtime import Edges, NoEdge, NoIdentity

TRUST_DOMAIN = "isthmus.test"


class Issuer:
    """A root and one region's issuer."""

    def __init__(self) -> None:
        now = datetime.now(UTC)
        self.root = authority.make_root(TRUST_DOMAIN, now)
        self.region = authority.make_region_issuer(self.root, TRUST_DOMAIN, "eu", now)

    def write(self, path: Path, uri: str) -> Path:
        """An identity folder."""
        key = keys.make_key()
        leaf = authority.sign(
            self.region,
            keys.signing_request(key),
            spiffe.parse(uri),
            datetime.now(UTC),
            hosts=["127.0.0.1", "localhost"],
        )
        folder.write(path, leaf.chain_pem, keys.key_pem(key), leaf.trust_pem)
        return path


class Edge(ChannelServiceServicer):
    """A server that stands for an edge and notes whose certificate it saw."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.error: grpc.StatusCode | None = None
        self.seen: list[bytes] = []
        self.address = ""
        self.peers: set[str] = set()
        self.held = asyncio.Event()
        self.release = asyncio.Event()

    async def GetChannel(
        self, request: GetChannelRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> GetChannelResponse:
        self.peers.add(context.peer())
        self.seen.append(context.auth_context()["x509_pem_cert"][0])
        if request.channel_id == "held":
            self.held.set()
            await self.release.wait()
            return GetChannelResponse()
        if self.error is not None:
            await context.abort(self.error, f"{self.name} says no")
        response = GetChannelResponse()
        response.channel.title = self.name
        return response


class Fixture:
    """Two edges, and an operator's identity."""

    def __init__(self, issuer: Issuer, tmp_path: Path) -> None:
        self.issuer = issuer
        self.path = tmp_path
        self.identity = issuer.write(tmp_path / "operator", f"spiffe://{TRUST_DOMAIN}/operator/ann")
        self.first = Edge("first")
        self.second = Edge("second")
        self.servers: dict[str, grpc.aio.Server] = {}

    async def start(self, edge: Edge) -> None:
        """Starts an edge on a free port, with mutual TLS."""
        held = folder.read(
            self.issuer.write(
                self.path / edge.name, f"spiffe://{TRUST_DOMAIN}/region/eu/workload/edge"
            )
        )
        server = grpc.aio.server()
        add_ChannelServiceServicer_to_server(edge, server)
        credentials = grpc.ssl_server_credentials(
            [(held.key_pem, held.chain_pem)], held.trust_pem, require_client_auth=True
        )
        port = server.add_secure_port("127.0.0.1:0", credentials)
        await server.start()
        edge.address = f"127.0.0.1:{port}"
        self.servers[edge.name] = server

    async def stop(self, edge: Edge) -> None:
        """Ends an edge as if it died."""
        await self.servers[edge.name].stop(0)

    def edges(self) -> Edges:
        """A client of both."""
        return Edges([self.first.address, self.second.address], self.identity, connect_seconds=5)


@pytest.fixture(scope="module")
def issuer() -> Issuer:
    """One authority for all tests."""
    return Issuer()


@pytest.fixture
async def two(issuer: Issuer, tmp_path: Path) -> AsyncIterator[Fixture]:
    """Two running edges."""
    fixture = Fixture(issuer, tmp_path)
    async with AsyncExitStack() as stack:
        for edge in (fixture.first, fixture.second):
            await fixture.start(edge)
            stack.push_async_callback(fixture.stop, edge)
        yield fixture


async def title(channel: grpc.aio.Channel) -> str:
    """One call."""
    answer = await ChannelServiceStub(channel).GetChannel(GetChannelRequest(channel_id="a"))
    return answer.channel.title


def free_address() -> str:
    """An address where nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{taken.getsockname()[1]}"


async def test_the_first_edge_is_preferred_and_kept(two: Fixture) -> None:
    edges = two.edges()
    assert [await edges.call(title, repeatable=False) for _ in range(2)] == ["first", "first"]
    assert two.second.seen == []
    await edges.close()


async def test_a_dead_edge_is_passed_over_and_taken_again(two: Fixture) -> None:
    edges = two.edges()
    address = two.first.address
    two.first.address = free_address()
    other = two.edges()
    assert await other.call(title, repeatable=False) == "second"
    await other.close()
    assert address != two.first.address
    assert await edges.call(title, repeatable=True) == "first"
    await edges.close()


async def test_an_edge_that_dies_between_calls_is_left(two: Fixture) -> None:
    edges = two.edges()
    assert await edges.call(title, repeatable=True) == "first"
    await two.stop(two.first)
    assert await edges.call(title, repeatable=True) == "second"
    await edges.close()


@pytest.mark.parametrize("repeatable", [True, False])
async def test_only_what_may_be_repeated_is(repeatable: bool, two: Fixture) -> None:
    two.first.error = grpc.StatusCode.UNAVAILABLE
    edges = two.edges()
    if repeatable:
        assert await edges.call(title, repeatable=True) == "second"
    else:
        with pytest.raises(grpc.aio.AioRpcError, match="first says no"):
            await edges.call(title, repeatable=False)
        assert two.second.seen == []
    await edges.close()


@pytest.mark.parametrize(
    "code",
    [
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
    ],
)
async def test_an_answer_is_an_answer(code: grpc.StatusCode, two: Fixture) -> None:
    two.first.error = code
    edges = two.edges()
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await edges.call(title, repeatable=True)
    assert raised.value.code() is code
    assert two.second.seen == []
    await edges.close()


async def test_each_failure_is_told_when_none_is_left(two: Fixture) -> None:
    two.second.error = grpc.StatusCode.UNAVAILABLE
    edges = Edges([free_address(), two.second.address], two.identity)
    with pytest.raises(NoEdge, match=r"[Rr]efused.*second says no"):
        await edges.call(title, repeatable=True)
    await edges.close()


async def test_an_edge_that_does_not_answer_is_left_after_a_while(two: Fixture) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        edges = Edges([address, two.second.address], two.identity, connect_seconds=0.3)
        assert await edges.call(title, repeatable=False) == "second"
        await edges.close()
        alone = Edges([address], two.identity, connect_seconds=0.3)
        with pytest.raises(NoEdge, match=r"no connection within 0\.3 s"):
            await alone.call(title, repeatable=False)


async def test_a_stream_gets_a_channel_of_its_own(two: Fixture) -> None:
    edges = two.edges()
    async with edges.connect() as channel:
        assert await title(channel) == "first"
    with pytest.raises((grpc.aio.UsageError, grpc.aio.AioRpcError)):
        await title(channel)
    await two.stop(two.first)
    two.first.address = free_address()
    async with Edges(
        [two.first.address, two.second.address], two.identity, connect_seconds=0.5
    ).connect() as channel:
        assert await title(channel) == "second"
    await edges.close()


async def test_a_rotated_certificate_is_used_from_the_next_connection_on(two: Fixture) -> None:
    edges = two.edges()
    for _ in range(2):
        async with edges.connect() as channel:
            await title(channel)
        two.issuer.write(two.identity, f"spiffe://{TRUST_DOMAIN}/operator/ann")
    assert len(set(two.first.seen)) == 2
    await edges.close()


async def test_an_edge_of_another_mesh_is_not_believed(two: Fixture, tmp_path: Path) -> None:
    stranger = Issuer().write(tmp_path / "stranger", f"spiffe://{TRUST_DOMAIN}/operator/ann")
    edges = Edges([two.first.address], stranger, connect_seconds=1)
    with pytest.raises(NoEdge):
        await edges.call(title, repeatable=True)
    assert two.first.seen == []
    await edges.close()


async def test_a_missing_identity_is_named(two: Fixture, tmp_path: Path) -> None:
    edges = Edges([two.first.address], tmp_path / "nothing")
    with pytest.raises(NoIdentity, match=r"nothing/trust\.crt cannot be read"):
        await edges.call(title, repeatable=True)


def test_no_edges_at_all_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one edge"):
        Edges([], tmp_path)


async def test_a_call_that_fails_does_not_end_those_beside_it(two: Fixture) -> None:
    edges = two.edges()
    beside = asyncio.create_task(
        edges.call(
            lambda channel: ChannelServiceStub(channel).GetChannel(
                GetChannelRequest(channel_id="held")
            ),
            repeatable=False,
        )
    )
    await two.first.held.wait()
    two.first.error = grpc.StatusCode.UNAVAILABLE
    assert await edges.call(title, repeatable=True) == "second"
    two.first.release.set()
    await beside
    await edges.close()


async def test_calls_at_once_share_one_connection(two: Fixture) -> None:
    edges = two.edges()
    await asyncio.gather(*(edges.call(title, repeatable=False) for _ in range(10)))
    assert len(two.first.peers) == 1
    await edges.close()
