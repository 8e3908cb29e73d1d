"""Who is revoked loses his connections and streams within seconds; the others lose no call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from mesh.identity.spiffe import DeviceId, Identity, OperatorId, WorkloadId
from mesh.place import EDGE
from mesh.xds import Compiler, Instance, Revision
from tests.e2e.control import Plane
from tests.e2e.sidecars import DOMAIN, SmallMesh, call, path, status_of
from tests.support.ports import free_blocks
from tests.support.tokens import AUDIENCE, ISSUER, Issuer

pytestmark = pytest.mark.e2e

ALPHA, BETA = Instance("eu", "alpha"), Instance("eu", "beta")
DENIED = grpc.StatusCode.PERMISSION_DENIED


@pytest.fixture
async def plane(mesh: SmallMesh) -> AsyncIterator[Plane]:
    made = Plane(mesh)
    yield made
    await made.stop()


def without(mesh: SmallMesh, *revoked: Identity) -> Revision:
    """What is served once these are in `revoked` of mesh.yaml."""
    topology = replace(mesh.topology, revoked=frozenset(each.uri for each in revoked))
    return Compiler().revision("without", mesh.contract, topology)


async def test_a_revoked_workload_loses_its_streams_and_nobody_else_a_call(
    mesh: SmallMesh, plane: Plane
) -> None:
    ads = await plane.start(plane.revision("with"))
    await mesh.start(("eu", "beta"), ("eu", "alpha"))
    assert (await ads.acknowledged("with", [ALPHA, BETA], within=10)).complete
    gone = WorkloadId(DOMAIN, "us", "beta")
    inbound = mesh.topology.inbound("eu", "beta")
    stream = mesh.direct(inbound, gone, "beta.eu.mesh.test").unary_stream(path("Follow"))(b"")
    assert await stream.read() == b"eu"

    channel, ended, calls = mesh.egress("eu", "alpha"), asyncio.Event(), 0

    async def load() -> None:
        nonlocal calls
        while not ended.is_set():
            assert (await call(channel, "Echo")).startswith("eu ")
            calls += 1

    async with asyncio.TaskGroup() as group:
        group.create_task(load())
        ads.fleet.offer(without(mesh, gone))
        assert (await ads.acknowledged("without", [ALPHA, BETA], within=5)).complete
        before = calls
        async with asyncio.timeout(10):
            with pytest.raises(grpc.aio.AioRpcError):
                while True:
                    await stream.read()
                    assert not stream.done()
        # Nor does he come back, while the others go on.
        again = mesh.direct(inbound, gone, "beta.eu.mesh.test").unary_stream(path("Follow"))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await again(b"", timeout=5).read()
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        while calls < before + 20:
            await asyncio.sleep(0.01)
        ended.set()


async def test_nobody_calls_a_revoked_workload(mesh: SmallMesh, plane: Plane) -> None:
    ads = await plane.start(plane.revision("with"))
    await mesh.start(("eu", "beta"), ("us", "beta"), ("eu", "alpha"))
    assert (await ads.acknowledged("with", [ALPHA, BETA], within=10)).complete
    channel = mesh.egress("eu", "alpha")
    assert (await call(channel, "Echo")).startswith("eu ")
    ads.fleet.offer(without(mesh, WorkloadId(DOMAIN, "eu", "beta")))
    assert (await ads.acknowledged("without", [ALPHA], within=5)).complete
    assert (await call(channel, "Echo")).startswith("us ")


async def test_operators_and_devices_are_shut_out_at_the_edge(tmp_path: Path, short: Path) -> None:
    issuer = Issuer()
    (tmp_path / "keys.json").write_text(issuer.key_set())
    access = f"edge: {{jwt: {{issuer: {ISSUER}, audience: {AUDIENCE}, keys: keys.json}}}}"
    mesh = SmallMesh(tmp_path, short, free_blocks(2), access=access)
    plane, edge = Plane(mesh), Instance("eu", EDGE)
    ann, bob = OperatorId(DOMAIN, "ann"), OperatorId(DOMAIN, "bob")
    one, two = DeviceId(DOMAIN, "encoder-1"), DeviceId(DOMAIN, "encoder-2")
    try:
        ads = await plane.start(plane.revision("with"))
        await mesh.start(("eu", "beta"), ("eu", EDGE))
        assert (await ads.acknowledged("with", [edge], within=10)).complete
        anonymous = mesh.direct(mesh.topology.edge("eu"), None, "edge.eu.mesh.test")
        token = {who: {"authorization": f"Bearer {issuer.token(who.name)}"} for who in (ann, bob)}
        for who in (ann, bob):
            await call(mesh.through_edge("eu", who), "Operate")
            await call(anonymous, "Operate", token[who])
        for device in (one, two):
            await call(mesh.through_edge("eu", device), "Report")
        live = mesh.through_edge("eu", ann)
        await call(live, "Operate")
        # What is open by a token ends as well, with its connection and not with its deadline.
        mesh.apps["eu"].arrived.clear()
        held = asyncio.ensure_future(status_of(call(anonymous, "Hold", token[ann], within=60)))
        await asyncio.wait_for(mesh.apps["eu"].arrived.wait(), 10)

        ads.fleet.offer(without(mesh, ann, one))
        assert (await ads.acknowledged("without", [edge], within=5)).complete
        assert (await status_of(call(live, "Operate")))[0] in (
            DENIED,
            grpc.StatusCode.UNAVAILABLE,
        )
        for who, method in ((ann, "Operate"), (one, "Report")):
            refused = await status_of(call(mesh.through_edge("eu", who), method))
            assert refused[0] is grpc.StatusCode.UNAVAILABLE
        assert (await held)[0] is grpc.StatusCode.UNAVAILABLE
        # By a token he has no certificate that could be refused: his calls are.
        fresh = mesh.direct(mesh.topology.edge("eu"), None, "edge.eu.mesh.test")
        assert (await status_of(call(fresh, "Operate", token[ann])))[0] is DENIED
        await call(fresh, "Operate", token[bob])
        await call(mesh.through_edge("eu", bob), "Operate")
        await call(mesh.through_edge("eu", two), "Report")
    finally:
        await mesh.close()
        await plane.stop()
