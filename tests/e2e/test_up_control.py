"""The control plane of a running mesh: who gets what from it, and what its absence does."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from isthmus.overview.v1.overview_pb2 import GetOverviewRequest
from isthmus.overview.v1.overview_pb2_grpc import OverviewServiceStub

from mesh.agent import admin
from mesh.cli.story.stage import Stage
from mesh.contracts.read import load
from mesh.local.record import read
from mesh.place import PLATFORM
from mesh.xds import Compiler, wire
from mesh.xds.kinds import CLUSTER, LISTENER, ROUTES
from tests.e2e.control import discovered_by, eventually, statistics_of
from tests.e2e.test_deploys import REJECTING
from tests.support.mesh import RunningMesh

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

DENIED = grpc.StatusCode.PERMISSION_DENIED


def socket(stage: Stage, region: str, workload: str) -> Path:
    return stage.layout.place(region, workload).admin_socket


def envoy_pid(stage: Stage, name: str) -> int | None:
    record = read(stage.layout.record)
    assert record is not None
    return next(each.pid for each in record.processes if each.name == name)


async def overview(stage: Stage, region: str) -> None:
    """A call through the edge and two sidecars."""
    await stage.edges(region).call(
        lambda channel: OverviewServiceStub(channel).GetOverview(GetOverviewRequest(), timeout=3),
        repeatable=False,
    )


async def test_each_sidecar_runs_what_was_compiled_for_it(mesh_up: Stage) -> None:
    compiled = Compiler().revision("r", load(), mesh_up.topology).snapshots
    for instance, snapshot in compiled.items():
        found = await discovered_by(socket(mesh_up, instance.region, instance.workload))
        versions = {key: version for key, (version, _) in found.items()}
        if instance.workload in PLATFORM:
            assert not versions, instance
            continue
        assert versions == {
            (each.type_url, each.name): each.version
            for type_url in (CLUSTER, LISTENER, ROUTES)
            for each in snapshot[type_url].values()
        }, instance
        rejected = await statistics_of(
            socket(mesh_up, instance.region, instance.workload), "update_rejected$"
        )
        assert rejected
        # On a mesh that the tests of deploys have used, one sidecar was made to reject one.
        most = 1 if (instance.region, instance.workload) == REJECTING else 0
        assert sum(rejected.values()) <= most, instance


async def ask(
    running: RunningMesh, held: tuple[bytes, bytes] | None, region: str = "eu"
) -> tuple[grpc.StatusCode, str, bytes]:
    """What who holds this key and certificate gets when he says that he is devices' sidecar."""
    # Not grpc.aio: a write that fails as the stream is refused hides the refusal behind INTERNAL
    # there (github.com/grpc/grpc/issues/36066).
    return await asyncio.to_thread(_ask, running, held, region)


def _ask(
    running: RunningMesh, held: tuple[bytes, bytes] | None, region: str
) -> tuple[grpc.StatusCode, str, bytes]:
    topology = running.layout.topology
    trust = (running.layout.operator / "trust.crt").read_bytes()
    name = f"control.{region}.{topology.trust_domain}"
    node = b"\x0a\x0aeu/devices"
    request = (
        b"\x12" + bytes([len(node)]) + node + b"\x22" + bytes([len(LISTENER)]) + LISTENER.encode()
    )
    over = threading.Event()

    def requests() -> Iterator[bytes]:
        yield request
        over.wait()

    with grpc.secure_channel(
        str(topology.inbound(region, "control")),
        grpc.ssl_channel_credentials(trust, *(held or ())),
        options=[("grpc.ssl_target_name_override", name), ("grpc.use_local_subchannel_pool", 1)],
    ) as channel:
        method: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(
            f"/{wire.SERVICE}/{wire.WHOLE_METHOD}"
        )
        stream = method(requests(), timeout=5)
        try:
            return grpc.StatusCode.OK, "", bytes(next(stream))
        except grpc.RpcError:  # the call says why
            return stream.code(), stream.details() or "", b""
        finally:
            over.set()
            stream.cancel()


def identity(folder: Path) -> tuple[bytes, bytes]:
    return (folder / "tls.key").read_bytes(), (folder / "tls.crt").read_bytes()


async def test_nobody_gets_what_is_anothers(running_mesh: RunningMesh) -> None:
    layout = running_mesh.layout
    compiled = Compiler().revision("r", load(), layout.topology).snapshots
    own = {
        instance.workload: {each.whole for each in snapshot[LISTENER].values()}
        for instance, snapshot in compiled.items()
        if instance.region == "eu"
    }
    code, details, answer = await ask(
        running_mesh, identity(layout.place("eu", "channels").identity)
    )
    assert (code, details) == (grpc.StatusCode.OK, "")
    assert all(each in answer for each in own["channels"])
    assert not any(each in answer for each in own["devices"] - own["channels"])
    # Another region's workload has another control plane.
    code, details, _ = await ask(running_mesh, identity(layout.place("us", "devices").identity))
    assert (code, "has nothing for us/devices" in details) == (DENIED, True)
    code, _, _ = await ask(running_mesh, identity(layout.operator))
    assert code == DENIED
    device = layout.device("encoder-eu-1") / "identity"
    code, _, _ = await ask(running_mesh, identity(device))
    assert code == DENIED
    code, _, _ = await ask(running_mesh, None)
    assert code == grpc.StatusCode.UNAVAILABLE
    # A workload's process has no way to it: its sidecar has no such route.
    egress = layout.place("eu", "devices").egress_socket
    async with grpc.aio.insecure_channel(
        f"unix:{egress}",
        options=[("grpc.default_authority", "control"), ("grpc.use_local_subchannel_pool", 1)],
    ) as channel:
        stream = channel.stream_stream(f"/{wire.SERVICE}/{wire.DELTA_METHOD}")(timeout=5)
        assert await stream.code() == DENIED


async def test_without_the_control_plane_the_mesh_goes_on(mesh_up: Stage) -> None:
    layout = mesh_up.layout
    at_devices = socket(mesh_up, "eu", "devices")
    before = await statistics_of(at_devices, r"(cds|lds|rds.*)\.update_success$")
    assert any(before.values())
    standing = json.loads((layout.place("eu", "control").data / "standing.json").read_text())
    failed: list[BaseException] = []
    calls, over = 0, asyncio.Event()

    async def load_it() -> None:
        nonlocal calls
        while not over.is_set():
            try:
                await overview(mesh_up, "eu")
                calls += 1
            except grpc.aio.AioRpcError as error:
                failed.append(error)

    async def connected() -> bool:
        found = await statistics_of(at_devices, "^control_plane.connected_state$")
        return any(found.values())

    async def disconnected() -> bool:
        return not await connected()

    async with asyncio.TaskGroup() as group:
        group.create_task(load_it())
        await mesh_up.control.ask("workload-kill", region="eu", workload="control")
        await eventually(disconnected)
        old = envoy_pid(mesh_up, "eu/overview/sidecar")
        assert old is not None
        await eventually(connected, 30)
        over.set()
    assert calls
    assert not failed
    assert await statistics_of(at_devices, r"(cds|lds|rds.*)\.update_success$") == before
    os.kill(old, signal.SIGKILL)

    async def back() -> bool:
        if envoy_pid(mesh_up, "eu/overview/sidecar") in (None, old):
            return False
        try:
            return await admin.ready(socket(mesh_up, "eu", "overview"))
        except admin.AdminUnreachable:
            return False

    await eventually(back, 60)
    found: dict[Any, Any] = await discovered_by(socket(mesh_up, "eu", "overview"))
    assert (LISTENER, "inbound") in found
    assert json.loads((layout.place("eu", "control").data / "standing.json").read_text()) == (
        standing
    )

    async def serving() -> bool:
        try:
            await overview(mesh_up, "eu")
        except grpc.aio.AioRpcError:
            return False
        return True

    await eventually(serving, 30)
