"""A workload's whole process: its sockets, platform services, telemetry, and its end."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from isthmus.channels.v1.channels_pb2 import ListChannelsRequest
from isthmus.channels.v1.channels_pb2_grpc import ChannelServiceStub
from isthmus.mesh.v1 import status_pb2, status_pb2_grpc
from isthmus.overview.v1 import overview_pb2, overview_pb2_grpc
from isthmus.replication.v1 import feed_pb2, feed_pb2_grpc, link_pb2, link_pb2_grpc

from mesh.identity import authority, folder, keys, spiffe
from mesh.place import Place
from tests.support.collector import Collector
from tests.unit.runtime.serving import DOMAIN, device, element, operator, through_edge, workload

ROOT = Path(__file__).resolve().parents[3]
OPERATOR = (("x-forwarded-client-cert", through_edge(operator())),)
DEVICE = (("x-forwarded-client-cert", through_edge(device())),)


def peer(name: str, region: str) -> tuple[tuple[str, str], ...]:
    """The header of a workload's call."""
    return (("x-forwarded-client-cert", element(workload(name, region))),)


@dataclass
class Running:
    """A started process."""

    process: subprocess.Popen[str]
    place: Place

    def channel(self) -> grpc.aio.Channel:
        """Straight to the application, as its sidecar does it."""
        return grpc.aio.insecure_channel(f"unix:{self.place.app_socket}")

    def end(self) -> tuple[int, list[dict[str, Any]], str]:
        """Waits for the end: exit code, log lines, and what else it said."""
        out, err = self.process.communicate(timeout=20)
        return self.process.returncode, [json.loads(line) for line in out.splitlines()], err

    def stop(self) -> tuple[int, list[dict[str, Any]], str]:
        """Ends it as the supervisor does."""
        self.process.send_signal(signal.SIGTERM)
        return self.end()


@contextmanager
def a_place(name: str) -> Iterator[Place]:
    """Folders of an instance in region eu; sockets need short paths."""
    base = Path(tempfile.mkdtemp(prefix="isthmus-rt-"))
    run, state = base / "run", base / "state"
    run.mkdir(mode=0o700)
    state.mkdir(mode=0o700)
    try:
        yield Place("eu", name, ROOT / "mesh.yaml", run, state)
    finally:
        shutil.rmtree(base)


@contextmanager
def starting(place: Place, *arguments: str, **variables: str) -> Iterator[Running]:
    """A process in that place; killed at the end if it still runs."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.unit.runtime.workload_double", *arguments],
        cwd=ROOT,
        env=os.environ | place.environment() | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield Running(process, place)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def wait_healthy(running: Running) -> None:
    """Until the health service says so."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        assert running.process.poll() is None, running.end()
        with grpc.insecure_channel(f"unix:{running.place.app_socket}") as channel:
            try:
                answer = health_pb2_grpc.HealthStub(channel).Check(
                    health_pb2.HealthCheckRequest(), timeout=1
                )
            except grpc.RpcError:
                time.sleep(0.05)
                continue
        if answer.status == health_pb2.HealthCheckResponse.SERVING:
            return
    raise TimeoutError("not healthy within 30 s")


def write_identity(place: Place) -> datetime:
    """A certificate for the instance; returns when it ends."""
    now = datetime.now(UTC)
    root = authority.make_root(DOMAIN, now)
    issuer = authority.make_region_issuer(root, DOMAIN, place.region, now)
    key = keys.make_key()
    identity = spiffe.WorkloadId(DOMAIN, place.region, place.workload)
    leaf = authority.sign(issuer, keys.signing_request(key), identity, now)
    folder.write(place.identity, leaf.chain_pem, keys.key_pem(key), leaf.trust_pem)
    return leaf.not_after


@pytest.fixture(scope="module")
def overview() -> Iterator[Running]:
    """A running workload without a group, started over a stale socket."""
    with a_place("overview") as place:
        write_identity(place)
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(place.app_socket))
        with starting(place, "overview") as running:
            wait_healthy(running)
            yield running


@pytest.fixture(scope="module")
def channels() -> Iterator[Running]:
    """A running workload with a group that holds one channel."""
    with a_place("channels") as place, starting(place, "channels") as running:
        wait_healthy(running)
        yield running


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self._path))


def metrics_page(place: Place) -> str:
    """What Prometheus would read."""
    connection = UnixConnection(place.metrics_socket)
    try:
        connection.request("GET", "/metrics")
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def value(page: str, name: str) -> float:
    """The one value of a metric, whatever its labels."""
    (line,) = [x for x in page.splitlines() if x.startswith((f"{name} ", f"{name}{{"))]
    return float(line.rpartition(" ")[2])


async def denied(started: Any) -> bool:
    """Whether a call is refused by the contract."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        if hasattr(started, "__aiter__"):
            async for _ in started:
                pass
        else:
            await started
    assert raised.value.code() is grpc.StatusCode.PERMISSION_DENIED, raised.value
    return True


def test_sockets_are_for_the_owner_alone(overview: Running) -> None:
    for path in (overview.place.app_socket, overview.place.metrics_socket):
        mode = path.stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) & 0o077 == 0


async def test_health_is_told_overall_and_by_service(overview: Running) -> None:
    async with overview.channel() as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for name in ("", "isthmus.overview.v1.OverviewService", "isthmus.mesh.v1.StatusService"):
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.Check(health_pb2.HealthCheckRequest(service="isthmus.Nothing"))
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND


async def test_the_workloads_own_service_answers(overview: Running) -> None:
    async with overview.channel() as channel:
        stub = overview_pb2_grpc.OverviewServiceStub(channel)
        request = overview_pb2.GetOverviewRequest()
        answer = await stub.GetOverview(request, metadata=OPERATOR)
        assert answer.overview.region == "eu"
        assert await denied(stub.GetOverview(request, metadata=DEVICE))
        assert await denied(stub.GetOverview(request))


async def test_a_request_is_taken_up_to_4_mb(overview: Running) -> None:
    async with overview.channel() as channel:
        get = channel.unary_unary("/isthmus.overview.v1.OverviewService/GetOverview")
        # One unknown field, of so many bytes.
        size = b"\x80\x80\xc0\x01"  # 3 MB
        await get(b"\xa2\x06" + size + bytes(3 << 20), metadata=OPERATOR)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await get(bytes((4 << 20) + 1), metadata=OPERATOR)
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_status_tells_who_answers_for_it(overview: Running) -> None:
    async with overview.channel() as channel:
        stub = status_pb2_grpc.StatusServiceStub(channel)
        status = await stub.GetStatus(status_pb2.GetStatusRequest(), metadata=OPERATOR)
        assert await denied(stub.GetStatus(status_pb2.GetStatusRequest(), metadata=DEVICE))
    assert (status.workload, status.region, status.version) == ("overview", "eu", "0.1.0")
    assert (status.owner, status.runbook) == ("media-operations", "docs/runbooks/overview.md")
    assert status.certificate.spiffe_id == workload("overview")
    assert status.certificate.not_after.ToDatetime(UTC) > datetime.now(UTC)
    assert not status.HasField("group")


async def listed(channel: grpc.aio.Channel) -> set[str]:
    """What reflection lists."""
    call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
        iter([reflection_pb2.ServerReflectionRequest(list_services="")]), metadata=OPERATOR
    )
    return {s.name async for answer in call for s in answer.list_services_response.service}


async def test_reflection_lists_what_is_served(overview: Running, channels: Running) -> None:
    async with overview.channel() as everything, channels.channel() as own:
        assert {
            "isthmus.channels.v1.ChannelService",
            "isthmus.overview.v1.OverviewService",
            "grpc.health.v1.Health",
        } < await listed(everything)
        assert await listed(own) == {
            "isthmus.mesh.v1.StatusService",
            "isthmus.replication.v1.ConflictsService",
            "isthmus.replication.v1.FeedService",
            "isthmus.replication.v1.LinkService",
            "isthmus.replication.v1.MembersService",
            "grpc.health.v1.Health",
            "grpc.reflection.v1alpha.ServerReflection",
        }


async def test_reflection_is_for_operators(overview: Running) -> None:
    async with overview.channel() as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        for metadata in (DEVICE, peer("channels", "eu"), ()):
            assert await denied(stub.ServerReflectionInfo(iter([]), metadata=metadata))


async def test_metrics_tell_calls_and_the_certificates_end(overview: Running) -> None:
    async with overview.channel() as channel:
        await overview_pb2_grpc.OverviewServiceStub(channel).GetOverview(
            overview_pb2.GetOverviewRequest(), metadata=OPERATOR
        )
    page = metrics_page(overview.place)
    expiry = value(page, "isthmus_certificate_expiry_timestamp_seconds")
    assert (
        page.count("isthmus_certificate_overdue{")
        == page.count("isthmus_certificate_overdue{")
        == 3
    )
    assert expiry > time.time_ns() / 1e9
    calls = [x for x in page.splitlines() if x.startswith("isthmus_rpc_server_duration_seconds_c")]
    assert any('method="isthmus.overview.v1.OverviewService/GetOverview"' in x for x in calls)


async def test_the_group_is_open_served_and_shown(channels: Running) -> None:
    async with channels.channel() as channel:
        stub = status_pb2_grpc.StatusServiceStub(channel)
        status = await stub.GetStatus(status_pb2.GetStatusRequest(), metadata=OPERATOR)
        assert (status.group.group, status.group.entities) == ("channels", 1)
        assert sorted(link.peer for link in status.group.links) == ["ap", "us"]
        watch = feed_pb2_grpc.FeedServiceStub(channel).Watch(
            feed_pb2.WatchRequest(), metadata=peer("overview", "eu")
        )
        first = await watch.read()
        assert [entity.key for entity in first.entities.entities] == ["first"]
        watch.cancel()
    page = metrics_page(channels.place)
    assert value(page, "isthmus_replication_entities") == 1
    assert value(page, "isthmus_replication_writes_total") == 1
    assert value(page, "isthmus_replication_corruptions_found_total") == 0
    assert value(page, "isthmus_replication_corruptions_repaired_total") == 0
    assert value(page, "isthmus_replication_changes_applied_total") == 1
    for metric in ("lag_changes", "lag_seconds", "lag_at_least", "silence_seconds", "connected"):
        for region in ("ap", "us"):
            shown = rf'isthmus_replication_link_{metric}{{group="channels",[^}}]*peer="{region}"'
            assert re.search(shown, page), shown


async def test_links_are_for_the_same_workload_elsewhere(channels: Running) -> None:
    async with channels.channel() as channel:
        stub = link_pb2_grpc.LinkServiceStub(channel)
        for metadata in (
            peer("channels", "eu"),
            peer("devices", "us"),
            OPERATOR,
        ):
            assert await denied(stub.Follow(iter([]), metadata=metadata))
        link = stub.Follow(metadata=peer("channels", "us"))
        await link.write(
            link_pb2.FollowRequest(
                hello=link_pb2.FollowHello(group="channels", formats=[1], origin={"region": "us"})
            )
        )
        answer = await link.read()
        assert answer.hello.group == "channels"
        assert answer.hello.origin.region == "eu"
        link.cancel()


async def test_what_is_not_implemented_is_said_so(channels: Running) -> None:
    async with channels.channel() as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await ChannelServiceStub(channel).ListChannels(ListChannelsRequest(), metadata=OPERATOR)
    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_sigterm_ends_it_soon_and_cleanly() -> None:
    with a_place("channels") as place, starting(place, "channels") as running:
        wait_healthy(running)
        async with running.channel() as channel:
            # A stream that would never end by itself.
            watch = feed_pb2_grpc.FeedServiceStub(channel).Watch(
                feed_pb2.WatchRequest(), metadata=peer("overview", "eu")
            )
            await watch.read()
            began = time.monotonic()
            code, lines, err = running.stop()
            assert time.monotonic() - began < 5
    assert (code, err) == (0, "")
    said = [line for line in lines if line["level"] != "warning"]
    assert said[0]["event"] == "serving"
    # There is no identity here, which what logs through the standard library says like all else.
    assert any("cannot be signed" in line["event"] for line in lines)
    assert {line["workload"] for line in lines} == {"channels"}
    (call,) = [line for line in lines if line["event"] == "call"]
    assert (call["method"], call["principal"]) == (
        "isthmus.replication.v1.FeedService/Watch",
        workload("overview"),
    )


def test_what_was_written_is_there_after_a_kill() -> None:
    with a_place("channels") as place:
        for _ in range(2):
            with starting(place, "channels") as running:
                wait_healthy(running)
                running.process.kill()
                running.process.communicate()
        with starting(place, "channels") as running:
            wait_healthy(running)
            assert value(metrics_page(place), "isthmus_replication_entities") == 1


def test_work_that_fails_ends_the_process_and_says_why() -> None:
    with (
        a_place("overview") as place,
        starting(place, "overview", "fail-background") as running,
    ):
        code, lines, _ = running.end()
    assert code == 1
    (failure,) = [line for line in lines if line["level"] == "error"]
    assert (failure["event"], failure["work"]) == ("background work ended", "doomed work")
    assert "ValueError: it was doomed" in failure["exception"]


def test_a_build_that_fails_is_logged() -> None:
    with a_place("overview") as place, starting(place, "overview", "fail-build") as running:
        code, lines, err = running.end()
    assert (code, err) == (1, "")
    assert "RuntimeError: no such luck" in lines[-1]["exception"]


def test_a_group_that_is_taken_is_said_so() -> None:
    with a_place("channels") as place, starting(place, "channels") as first:
        wait_healthy(first)
        other = replace(place, run=place.run.parent / "other")
        other.run.mkdir(mode=0o700)
        with starting(other, "channels") as second:
            code, lines, err = second.end()
    assert (code, err) == (1, "")
    assert lines[-1]["event"] == "cannot open the replication group"


@pytest.mark.parametrize(
    ("name", "variables", "said"),
    [
        ("channels", {}, "this is 'channels', and ISTHMUS_WORKLOAD is 'overview'"),
        ("overview", {"ISTHMUS_TOPOLOGY": "/nowhere/mesh.yaml"}, "/nowhere/mesh.yaml"),
    ],
)
def test_a_wrong_place_is_told_in_one_line(name: str, variables: dict[str, str], said: str) -> None:
    with a_place("overview") as place, starting(place, name, **variables) as running:
        code, lines, err = running.end()
    assert (code, lines) == (2, [])
    assert said in err
    assert len(err.splitlines()) == 1


async def test_spans_and_metrics_reach_a_collector() -> None:
    collector = Collector()
    trace_id = "ab" * 16
    metadata = (*OPERATOR, ("traceparent", f"00-{trace_id}-{'cd' * 8}-01"))
    try:
        with a_place("overview") as place:
            place = replace(place, otlp=collector.address)
            with starting(place, "overview") as running:
                wait_healthy(running)
                async with running.channel() as channel:
                    await overview_pb2_grpc.OverviewServiceStub(channel).GetOverview(
                        overview_pb2.GetOverviewRequest(), metadata=metadata
                    )
                code, lines, _ = running.stop()
        assert code == 0
        spans = collector.wait_for(lambda spans: any(s.trace_id == trace_id for s in spans))
    finally:
        collector.close()
    (span,) = [span for span in spans if span.trace_id == trace_id]
    assert (span.service, span.region, span.parent_id) == ("overview", "eu", "cd" * 8)
    assert "isthmus_rpc_server_duration" in collector.metric_names
    (call,) = [line for line in lines if line["event"] == "call"]
    assert call["trace_id"] == trace_id
