"""For whom a call is made: verified at the door, passed on, and nobody's invention."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from isthmus.channels.v1.channels_pb2 import CreateChannelRequest, GetChannelRequest

from mesh.identity import authority, end_principals, folder, keys, spiffe
from mesh.identity.end_principals import METADATA_KEY
from mesh.identity.spiffe import OperatorId, WorkloadId
from mesh.runtime import end_principal
from mesh.runtime.context import Call, current
from mesh.runtime.end_principals import OnBehalf
from mesh.runtime.principal import UNENROLLED
from tests.unit.runtime.serving import DOMAIN, SERVICE, operator, serving, through_edge, workload

ANN = OperatorId(DOMAIN, "ann")
REQUEST = CreateChannelRequest(channel_id="a", title="t")
REQUEST.source.file = "a.mp4"


class Echo:
    """Answers for whom it was asked."""

    async def Unary(self, request: Any, context: Any) -> GetChannelRequest:
        found = end_principal()
        return GetChannelRequest(channel_id=found.identity.uri if found else "nobody")


@pytest.fixture
def edge(tmp_path: Path) -> folder.Held:
    """An edge's identity; `tmp_path/identity` is that of a workload of the same mesh."""
    now = datetime.now(UTC)
    root = authority.make_root(DOMAIN, now)
    issuer = authority.make_region_issuer(root, DOMAIN, "eu", now)
    for name in ("edge", "identity"):
        who = WorkloadId(DOMAIN, "eu", "edge" if name == "edge" else "echo")
        key = keys.make_key()
        leaf = authority.sign(issuer, keys.signing_request(key), who, now)
        folder.write(tmp_path / name, leaf.chain_pem, keys.key_pem(key), leaf.trust_pem)
    return folder.read(tmp_path / "edge")


async def _ask(channel: grpc.aio.Channel, caller: str, value: bytes = b"") -> str:
    call = channel.unary_unary(
        f"/{SERVICE}/Unary",
        request_serializer=CreateChannelRequest.SerializeToString,
        response_deserializer=GetChannelRequest.FromString,
    )
    metadata: list[tuple[str, str | bytes]] = [("x-forwarded-client-cert", caller)]
    if value:
        metadata.append((METADATA_KEY, value))
    answer = await call(REQUEST, metadata=tuple(metadata), timeout=10)
    return str(answer.channel_id)


def _element(uri: str) -> str:
    return f'Hash={"ab" * 32};Subject="";URI={uri}'


async def test_it_is_read_behind_an_edge_and_behind_a_workload(
    tmp_path: Path, edge: folder.Held
) -> None:
    value = end_principals.state(edge, ANN, datetime.now(UTC))
    async with serving(tmp_path, Echo()) as channel:
        assert await _ask(channel, through_edge(operator()), value) == ANN.uri
        assert await _ask(channel, _element(workload("overview")), value) == ANN.uri
        assert await _ask(channel, _element(workload("overview"))) == "nobody"


async def test_what_is_not_an_edges_word_about_this_caller_is_refused(
    tmp_path: Path, edge: folder.Held
) -> None:
    now = datetime.now(UTC)
    own = folder.read(tmp_path / "identity")
    values = {
        "another principal's": end_principals.state(edge, OperatorId(DOMAIN, "bob"), now),
        "a workload's": end_principals.state(own, ANN, now),
        "too old": end_principals.state(edge, ANN, now - timedelta(minutes=10)),
        "noise": b"noise",
    }
    async with serving(tmp_path, Echo()) as channel:
        for what, value in values.items():
            with pytest.raises(grpc.aio.AioRpcError, match=METADATA_KEY) as told:
                await _ask(channel, through_edge(operator()), value)
            assert told.value.code() is grpc.StatusCode.UNAUTHENTICATED, what


async def test_calls_within_a_call_pass_it_on_while_it_lasts(
    tmp_path: Path, edge: folder.Held
) -> None:
    now = datetime.now(UTC)
    value = end_principals.state(edge, ANN, now)
    roots = folder.read(tmp_path / "identity").trust_pem
    end = end_principals.verify(value, DOMAIN, roots, now)
    clock = [time.time_ns()]
    async with serving(tmp_path, Echo(), client=[OnBehalf(lambda: clock[0])]) as channel:
        caller = _element(workload("overview"))
        assert await _ask(channel, caller) == "nobody"
        context = current.set(Call("/a/b", UNENROLLED, end=end))
        try:
            assert await _ask(channel, caller) == spiffe.parse(ANN.uri).uri
            clock[0] = int(end.until.timestamp() * 1e9) + 1
            assert await _ask(channel, caller) == "nobody"
        finally:
            current.reset(context)
