"""`isthmus mesh drift` and `tap` on a running mesh: what differs, and who calls whom."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio as health
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server
from grpc_reflection.v1alpha import reflection, reflection_pb2
from isthmus.channels.v1.channel_pb2 import Source
from isthmus.channels.v1.channels_pb2 import (
    CreateChannelRequest,
    DeleteChannelRequest,
    GetChannelRequest,
    ListChannelsRequest,
)
from isthmus.channels.v1.channels_pb2_grpc import ChannelServiceStub
from isthmus.options.v1 import options_pb2
from isthmus.overview.v1.overview_pb2 import GetOverviewRequest
from isthmus.overview.v1.overview_pb2_grpc import OverviewServiceStub

from mesh.agent import admin
from mesh.cli.exits import Exit
from mesh.cli.story.stage import Stage
from mesh.contracts.read import descriptors
from mesh.local.record import read
from mesh.place import Place
from tests.e2e.control import eventually
from tests.support.mesh import Run, RunningMesh

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

OVERVIEW = "isthmus.overview.v1.OverviewService"
STATUS = "isthmus.mesh.v1.StatusService"


async def drift(isthmus: Run) -> tuple[int, dict[str, Any]]:
    done = await asyncio.to_thread(isthmus, "mesh", "drift", "--json")
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def sidecar_pid(stage: Stage, name: str) -> int:
    record = read(stage.layout.record)
    assert record is not None
    return next(each.pid for each in record.processes if each.name == f"{name}/sidecar")


async def test_a_healthy_mesh_does_not_drift(mesh_up: Stage, isthmus: Run) -> None:
    code, found = await drift(isthmus)
    assert (code, found["drifts"], found["unknown"]) == (Exit.OK, [], [])
    workloads = mesh_up.topology.workloads
    assert found["sidecars"] == len(mesh_up.topology.regions) * (len(workloads) + 1)
    assert found["servers"] == len(mesh_up.topology.regions) * len(workloads)
    assert found["resources"] > 10 * found["sidecars"]


def another_contract() -> DescriptorPool:
    """One in which operators may take longer, and a response has lost a field."""
    files = descriptor_pb2.FileDescriptorSet.FromString(descriptors().SerializeToString())
    for file in files.file:
        for service in file.service:
            if f"{file.package}.{service.name}" == OVERVIEW:
                service.method[0].options.Extensions[options_pb2.method].timeout.seconds = 99
        for message in file.message_type:
            if message.name == "GetOverviewResponse":
                del message.field[-1]
    pool = DescriptorPool()
    for file in files.file:
        pool.Add(file)
    for module in (health_pb2, reflection_pb2):
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    return pool


@asynccontextmanager
async def instead_of_the_process(place: Place) -> AsyncIterator[None]:
    """Another server takes a process's place behind its sidecar; the process goes on unasked."""
    aside = place.app_socket.with_suffix(".aside")
    place.app_socket.rename(aside)
    server = grpc.aio.server()
    checks = health.HealthServicer()
    await checks.set("", health_pb2.HealthCheckResponse.SERVING)
    add_HealthServicer_to_server(checks, server)
    names = [OVERVIEW, "isthmus.mesh.v1.Stranger", reflection.SERVICE_NAME]
    reflection.enable_server_reflection(names, server, pool=another_contract())
    server.add_insecure_port(f"unix:{place.app_socket}")
    await server.start()
    try:
        yield
    finally:
        await server.stop(None)
        aside.replace(place.app_socket)


async def ready_again(stage: Stage, name: str, place: Place, old: int) -> None:
    async def ready() -> bool:
        if sidecar_pid(stage, name) == old:
            return False
        try:
            return await admin.ready(place.admin_socket)
        except admin.AdminUnreachable:
            return False

    await eventually(ready, 60)


@asynccontextmanager
async def a_value_set_by_hand(place: Place) -> AsyncIterator[None]:
    """In the runtime of an Envoy."""
    assert await admin.post(place.admin_socket, "/runtime_modify?by.hand=7") == 200
    try:
        yield
    finally:
        await admin.post(place.admin_socket, "/runtime_modify?by.hand=")


async def test_an_envoy_and_a_server_that_drifted(mesh_up: Stage, isthmus: Run) -> None:
    place = mesh_up.layout.place("ap", "overview")
    from_files = mesh_up.layout.place("us", "authority")
    async with instead_of_the_process(place), a_value_set_by_hand(from_files):
        old = sidecar_pid(mesh_up, "ap/overview")
        os.kill(old, signal.SIGKILL)  # or it would keep its connection to the process
        await ready_again(mesh_up, "ap/overview", place, old)
        code, found = await drift(isthmus)
    assert code == Exit.FAILED
    assert {
        "region": "us",
        "workload": "authority",
        "between": "COMPILED_ENVOY",
        "subject": "runtime by.hand",
        "path": "",
        "there": '"7"',
        "should": "nothing",
    } in found["drifts"]
    told = {
        each["subject"]: (each["path"], each["there"], each["should"])
        for each in found["drifts"]
        if (each["region"], each["workload"]) == ("ap", "overview")
    }
    timeout = "options.[isthmus.options.v1.method].timeout"
    assert told[f"{OVERVIEW}/GetOverview"][:2] == (timeout, '"99s"')
    assert told["isthmus.overview.v1.GetOverviewResponse"][1] == "nothing"
    assert told[STATUS] == ("", "nothing", "the service")
    assert told["isthmus.mesh.v1.Stranger"] == ("", "the service", "nothing")
    assert len(told) + 1 == len({each["subject"] for each in found["drifts"]})

    async def served() -> bool:
        stub = OverviewServiceStub
        try:
            await mesh_up.edges("ap").call(
                lambda channel: stub(channel).GetOverview(GetOverviewRequest(), timeout=3),
                repeatable=False,
            )
        except grpc.aio.AioRpcError:
            return False
        return True

    await eventually(served, 60)


async def test_who_does_not_answer_is_unknown(mesh_up: Stage, isthmus: Run) -> None:
    pid = sidecar_pid(mesh_up, "ap/overview")
    os.kill(pid, signal.SIGSTOP)
    try:
        code, found = await drift(isthmus)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert (code, found["drifts"]) == (Exit.UNREACHABLE, [])
    assert "ap/overview" in {each["what"] for each in found["unknown"]}
    sidecars = len(mesh_up.topology.regions) * (len(mesh_up.topology.workloads) + 1)
    assert found["sidecars"] == sidecars - 1


@contextmanager
def tapping(running: RunningMesh, *options: str) -> Iterator[subprocess.Popen[str]]:
    """The command, once all of eu's sidecars are listened to."""
    command = [sys.executable, "-m", "mesh.cli", "mesh", "tap", "--json", "--region", "eu"]
    command += ["--mesh", str(running.layout.topology.path), *options]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stderr is not None
            workloads = len(running.layout.topology.workloads)
            assert process.stderr.readline() == f"eu: {workloads + 1} sidecars are listened to\n"
            yield process
        finally:
            process.kill()


def told(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The next line."""
    assert process.stdout is not None
    found: dict[str, Any] = json.loads(process.stdout.readline())
    return found


def control_log(running: RunningMesh, event: str) -> list[dict[str, Any]]:
    """What eu's control plane has written down."""
    text = (running.layout.place("eu", "control").logs / "service.log").read_text()
    lines = [json.loads(line) for line in text.splitlines() if f'"{event}"' in line]
    return [line for line in lines if line["event"] == event]


async def test_a_tap_shows_who_called_what_and_how_it_went(
    mesh_up: Stage, running_mesh: RunningMesh
) -> None:
    async def ask(channel: grpc.aio.Channel) -> None:
        stub = ChannelServiceStub(channel)
        await stub.ListChannels(ListChannelsRequest(), timeout=5)
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.GetChannel(GetChannelRequest(channel_id="no-such-channel"), timeout=5)

    before = len(control_log(running_mesh, "tap ended"))
    with tapping(running_mesh, "--caller", "operator", "--workload", "channels") as process:
        await mesh_up.edges("eu").call(ask, repeatable=False)
        found = [await asyncio.to_thread(told, process) for _ in range(2)]
        (begun,) = control_log(running_mesh, "tap begins")[before:]
    operator = f"spiffe://{mesh_up.topology.trust_domain}/operator/local"
    service = "isthmus.channels.v1.ChannelService"
    assert [(each["method"], each["status"]) for each in found] == [
        (f"{service}/ListChannels", "OK"),
        (f"{service}/GetChannel", "NOT_FOUND"),
    ]
    for each in found:
        assert (each["caller"], each["callee"]) == (operator, "channels")
        assert (each["region"], each["sidecar"]) == ("eu", "edge")
        assert 0 <= each["latency_ms"] < 5000
        assert "no-such-channel" not in json.dumps(each)
    assert (begun["by"], begun["filter"]["callers"]) == (operator, ["operator"])

    async def ended() -> bool:
        return len(control_log(running_mesh, "tap ended")) > before

    await eventually(ended)  # since the operator is gone


async def test_a_tap_shows_what_was_said_but_for_what_is_redacted(
    mesh_up: Stage, running_mesh: RunningMesh
) -> None:
    key = "stream-key-of-nobody"
    create = CreateChannelRequest(
        channel_id="tapped", title="Tapped", source=Source(url=f"rtmps://live.test/app/{key}")
    )
    method = ("--method", "ChannelService/CreateChannel")
    asked = {"channel_id": "tapped", "title": "Tapped", "source": {}, "source.url": "[redacted]"}

    async def ask(channel: grpc.aio.Channel) -> None:
        stub = ChannelServiceStub(channel)
        await stub.CreateChannel(create, timeout=5)
        await stub.DeleteChannel(DeleteChannelRequest(channel_id="tapped"), timeout=5)

    with (
        tapping(running_mesh, "--payload", *method) as process,
        tapping(running_mesh, *method) as silent,
    ):
        await mesh_up.edges("eu").call(ask, repeatable=False)
        found = await asyncio.to_thread(told, process)
        without = await asyncio.to_thread(told, silent)
    assert (found["sidecar"], found["status"], found["cut"]) == ("channels", "OK", False)
    assert found["requests"] == [asked]
    (answered,) = found["responses"]
    assert (answered["channel"]["channel_id"], answered["channel.source.url"]) == (
        "tapped",
        "[redacted]",
    )
    assert key not in json.dumps([found, without])
    assert "requests" not in without


async def test_what_a_tap_is_too_slow_for_is_counted_and_no_call_waits(
    mesh_up: Stage, running_mesh: RunningMesh
) -> None:
    made = 40

    async def ask(channel: grpc.aio.Channel) -> None:
        stub = ChannelServiceStub(channel)
        await asyncio.gather(
            *(stub.ListChannels(ListChannelsRequest(), timeout=5) for _ in range(made))
        )

    options = ("--method", "ListChannels", "--caller", "operator", "--per-second", "5")
    with tapping(running_mesh, *options) as process:
        os.kill(process.pid, signal.SIGSTOP)
        await mesh_up.edges("eu").call(ask, repeatable=False)  # none of them fails
        os.kill(process.pid, signal.SIGCONT)
        shown = left_out = 0
        while shown + left_out < made:
            line = await asyncio.to_thread(told, process)
            shown, left_out = shown + ("method" in line), left_out + line.get("left_out", 0)
    assert shown + left_out == made
    assert left_out >= made // 2
