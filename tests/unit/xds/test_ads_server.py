"""The server on a real socket: who gets in, what is refused, what a slow reader is spared."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from envoy_data_plane.envoy.service.discovery import v3 as discovery
from envoy_data_plane.google.rpc import Status

from mesh.xds import (
    SERVER_OPTIONS,
    AdsServer,
    Fleet,
    Instance,
    NotAdmitted,
    Peer,
    Revision,
    by_certificate,
)
from mesh.xds.kinds import CLUSTER
from tests.support.xds_clients import LIBRARY, resource

METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/"
A = Instance("eu", "a")


def revision(name: str, content: int) -> Revision:
    return Revision(name, {A: LIBRARY.snapshot([resource(CLUSTER, "one", content)])})


def by_name(peer: Peer) -> Instance:
    """Believes what a client says: for a test alone."""
    return Instance("eu", peer.metadata["name"])


class Served:
    """A server on a Unix socket, and a channel to it."""

    def __init__(self, folder: Path) -> None:
        self.ads = AdsServer(Fleet(revision("r1", 1)), by_name, now_ms=lambda: 77)
        self.server = grpc.aio.server(options=SERVER_OPTIONS)
        self.ads.add_to(self.server)
        self.server.add_insecure_port(f"unix:{folder}/ads.sock")
        self.channel = grpc.aio.insecure_channel(f"unix:{folder}/ads.sock")

    def stream(self, name: str = "a", method: str = "DeltaAggregatedResources") -> Any:
        return self.channel.stream_stream(METHOD + method)(metadata=[("name", name)], timeout=30)


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    folder = Path(tempfile.mkdtemp(prefix="ist-"))
    made = Served(folder)
    await made.server.start()
    yield made
    await made.channel.close()
    await made.server.stop(None)
    shutil.rmtree(folder)


def ask(**fields: Any) -> bytes:
    return bytes(discovery.DeltaDiscoveryRequest(type_url=CLUSTER, **fields))


async def answer(stream: Any) -> discovery.DeltaDiscoveryResponse:
    async with asyncio.timeout(10):
        return discovery.DeltaDiscoveryResponse.parse(await stream.read())


async def test_a_revision_is_awaited(served: Served) -> None:
    stream = served.stream()
    await stream.write(ask())
    first = await answer(stream)
    assert [each.name for each in first.resources] == ["one"]
    late = await served.ads.acknowledged("r1", [A], within=0.05)
    assert late.waiting == {A}
    await stream.write(ask(response_nonce=first.nonce))
    assert (await served.ads.acknowledged("r1", [A], within=10)).complete
    served.ads.fleet.offer(revision("r2", 2))
    awaited = asyncio.create_task(served.ads.acknowledged("r2", within=10))
    second = await answer(stream)
    refused = discovery.DeltaDiscoveryRequest(
        type_url=CLUSTER,
        response_nonce=second.nonce,
        error_detail=Status(code=3, message="no"),
    )
    await stream.write(bytes(refused))
    (rejection,) = (await awaited).rejected.values()
    assert (rejection.text, rejection.time_ms) == ("no", 77)
    (view,) = served.ads.fleet.views()
    (kind,) = view.types
    assert (view.revision, view.acknowledged, kind.rejection) == ("r2", "r1", rejection)
    assert kind.sent == revision("r2", 2).snapshots[A][CLUSTER].version
    assert kind.acknowledged == revision("r1", 1).snapshots[A][CLUSTER].version
    stream.cancel()


async def test_who_does_not_answer_gets_the_latest_and_not_each_step(served: Served) -> None:
    stream = served.stream()
    await stream.write(ask())
    first = await answer(stream)
    for number in range(2, 50):
        served.ads.fleet.offer(revision(f"r{number}", number))
    await stream.write(ask(response_nonce=first.nonce))
    second = await answer(stream)
    assert [each.version for each in second.resources] == [resource(CLUSTER, "one", 49).version]
    await stream.write(ask(response_nonce=second.nonce))
    assert (await served.ads.acknowledged("r49", [A], within=10)).complete
    assert served.ads.traffic.responses == 2
    assert served.ads.traffic.bytes > 0
    stream.cancel()


async def test_what_is_no_request_ends_the_stream_with_a_reason(served: Served) -> None:
    for data, said in ((b"\xff\xff", "not a DeltaDiscoveryRequest"), (b"", "names no type")):
        stream = served.stream()
        await stream.write(data)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async with asyncio.timeout(10):
                await stream.read()
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert said in (caught.value.details() or "")
    assert not served.ads.fleet.views()


async def test_who_has_no_place_in_the_mesh_is_told(served: Served) -> None:
    for method in ("DeltaAggregatedResources", "StreamAggregatedResources"):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async with asyncio.timeout(10):
                await served.stream("unheard-of", method).read()
        assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED
        assert caught.value.details() == "revision r1 has nothing for eu/unheard-of"


async def test_both_protocols_serve_the_same(served: Served) -> None:
    stream = served.stream(method="StreamAggregatedResources")
    await stream.write(bytes(discovery.DiscoveryRequest(type_url=CLUSTER, resource_names=["one"])))
    async with asyncio.timeout(10):
        found = discovery.DiscoveryResponse.parse(await stream.read())
    assert [each.value for each in found.resources] == [f"{CLUSTER} one 1".encode()]
    acknowledged = discovery.DiscoveryRequest(
        type_url=CLUSTER,
        resource_names=["one"],
        version_info=found.version_info,
        response_nonce=found.nonce,
    )
    await stream.write(bytes(acknowledged))
    assert (await served.ads.acknowledged("r1", [A], within=10)).complete
    await stream.done_writing()
    async with asyncio.timeout(10):
        assert await stream.code() == grpc.StatusCode.OK
    assert not served.ads.fleet.views()


@pytest.mark.parametrize(
    "identity",
    [
        "",
        "spiffe://mesh.test/operator/first",
        "spiffe://mesh.test/device/encoder",
        "spiffe://other.test/region/eu/workload/a",
        "spiffe://mesh.test/region/eu/workload/a/b",
        "https://mesh.test/region/eu/workload/a",
    ],
)
def test_only_workloads_of_the_trust_domain_get_in(identity: str) -> None:
    admit = by_certificate("mesh.test")
    assert admit(Peer("spiffe://mesh.test/region/eu/workload/a", {})) == A
    with pytest.raises(NotAdmitted, match=r"no workload of mesh\.test"):
        admit(Peer(identity, {"name": "a"}))
