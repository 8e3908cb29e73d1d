"""A client of an edge cannot cost the others: sizes, counts, rates and slowness have bounds."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import grpc
import h2.events
import pytest
import pytest_asyncio

from mesh.contracts.model import RateLimit
from mesh.envoy import listeners, outside
from mesh.identity.spiffe import DeviceId, OperatorId
from mesh.local.ports import claim_blocks
from mesh.place import EDGE
from tests.e2e.sidecars import DOMAIN, SmallMesh, call, path, status_of
from tests.e2e.web import Http2, connected

pytestmark = pytest.mark.e2e

OPERATOR = OperatorId(DOMAIN, "first")
DEVICE = DeviceId(DOMAIN, "encoder-1")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def started(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SmallMesh]:
    """An edge as it is, for all tests that set no bound of their own."""
    claim = claim_blocks(2)
    run = Path(tempfile.mkdtemp(prefix="ist-"))  # sockets need a short path
    small = SmallMesh(tmp_path_factory.mktemp("edge"), run, list(claim.bases))
    try:
        await small.start(("eu", "beta"), ("eu", EDGE))
        yield small
    finally:
        await small.close()
        shutil.rmtree(run)
        claim.release()


@pytest.fixture
def shared(started: SmallMesh) -> SmallMesh:
    """That one, as if nobody had called yet."""
    started.apps["eu"].seen.clear()
    return started


def _grpc(method: str) -> dict[str, str]:
    return {
        ":method": "POST",
        ":scheme": "https",
        ":authority": "edge",
        ":path": path(method),
        "content-type": "application/grpc",
        "te": "trailers",
    }


@pytest.mark.asyncio(loop_scope="module")
async def test_a_request_that_is_too_large_is_refused_and_reaches_nobody(shared: SmallMesh) -> None:
    operator = shared.through_edge("eu", OPERATOR)
    invoke = operator.unary_unary(path("Operate"))
    code, details = await status_of(invoke(bytes(outside.MOST_BODY + 1), timeout=10))
    assert (code, details) == (grpc.StatusCode.UNKNOWN, "Payload Too Large")
    assert not shared.apps["eu"].seen
    # As large as a message may be is not too large.
    await invoke(bytes(4 * 1024 * 1024 - 1), timeout=10)
    assert shared.apps["eu"].seen["Operate"] == 1


@pytest.mark.asyncio(loop_scope="module")
async def test_headers_have_a_size_and_a_number(shared: SmallMesh) -> None:
    large = {"x-large": "a" * outside.MOST_HEADERS_KB * 1024}
    many = {f"x-{i}": "a" for i in range(outside.MOST_HEADERS)}
    for headers in (large, many):
        async with connected(shared, OPERATOR) as connection:
            answer = await connection.request("GET", "/metrics/beta", headers)
            assert answer.status == 431
    async with connected(shared, OPERATOR) as connection:
        assert (await connection.request("GET", "/metrics/beta", {"a_b": "c"})).status == 400


async def test_streams_beyond_the_limit_end_the_connection(
    mesh: SmallMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outside, "MOST_STREAMS", 4)
    await mesh.start(("eu", "beta"), ("eu", EDGE))
    async with connected(mesh, OPERATOR, alpn="h2") as connection:
        client = Http2(connection)
        assert await client.settled() == 4
        for _ in range(4):
            client.open(_grpc("Hold"))
        await client.answered()
        client.open(_grpc("Hold"))
        # Who goes on after it was told the limit loses the connection, not only the stream.
        with pytest.raises(EOFError):
            await client.answered()
    await call(mesh.through_edge("eu", OPERATOR), "Operate")


async def test_one_connection_does_not_use_up_anothers_rate(
    mesh: SmallMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outside, "RATE", RateLimit(per_second=1, burst=3))
    await mesh.start(("eu", "beta"), ("eu", EDGE))
    greedy, other = (mesh.through_edge("eu", OPERATOR) for _ in range(2))
    codes = [(await status_of(call(greedy, "Operate")))[0] for _ in range(6)]
    assert codes[:3] == [grpc.StatusCode.OK] * 3
    assert grpc.StatusCode.RESOURCE_EXHAUSTED in codes[3:]
    await call(other, "Operate")


async def test_headers_that_never_end_are_cut(
    mesh: SmallMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outside, "HEADERS_WITHIN", timedelta(seconds=1))
    await mesh.start(("eu", "beta"), ("eu", EDGE))
    async with connected(mesh, OPERATOR) as connection:

        async def drip() -> None:
            connection.writer.write(b"GET /metrics/beta HTTP/1.1\r\n")
            while True:  # a little always comes: it is not silence that ends it
                connection.writer.write(b"x-slow: 1\r\n")
                await asyncio.sleep(0.2)

        dripping = asyncio.ensure_future(drip())
        try:
            assert (await connection.answer()).status == 408
            async with asyncio.timeout(10):
                assert await connection.ended() == b""
        finally:
            dripping.cancel()


@pytest.mark.asyncio(loop_scope="module")
async def test_a_body_that_never_ends_is_cut_at_the_methods_deadline(shared: SmallMesh) -> None:
    async with connected(shared, DEVICE, alpn="h2") as connection:
        client = Http2(connection)
        await client.settled()
        stream = client.open(_grpc("Upload"))
        client.send(stream, b"\0\0\0\1\0")
        status: dict[str, str] = {}
        while "grpc-status" not in status:
            for event in await client.events():
                if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                    status |= {
                        (n if isinstance(n, str) else n.decode()): (
                            v if isinstance(v, str) else v.decode()
                        )
                        for n, v in event.headers or []
                    }
        assert status["grpc-status"] == str(grpc.StatusCode.DEADLINE_EXCEEDED.value[0])
    # It never came to the application: the edge holds what is not complete.
    assert not shared.apps["eu"].seen


async def test_connections_without_calls_are_closed(
    mesh: SmallMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listeners, "IDLE", timedelta(seconds=1))
    await mesh.start(("eu", "beta"), ("eu", EDGE))
    async with connected(mesh, OPERATOR) as connection, asyncio.timeout(10):
        assert await connection.ended() == b""


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("target", ["/metrics/beta", "/grpc.health.v1.Health/Check"])
async def test_what_has_no_deadline_in_the_contract_holds_no_request_either(
    shared: SmallMesh, target: str
) -> None:
    async with connected(shared, OPERATOR) as connection:
        connection.writer.write(
            f"POST {target} HTTP/1.1\r\nhost: edge\r\ncontent-length: 9\r\n\r\n".encode()
        )
        # Well under the test's own limit, though the body never comes.
        assert (await connection.answer()).status in (200, 403, 404, 408, 415, 503, 504)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_session_is_not_resumed_without_its_certificate(shared: SmallMesh) -> None:
    async with connected(shared, OPERATOR) as first:
        await first.request("GET", "/metrics/beta")
        held = first.writer.get_extra_info("ssl_object").session
    # Nothing to come back with, so that no connection outlives the certificate it began with.
    assert held is None or not held.has_ticket
