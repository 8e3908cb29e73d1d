"""The promises of a hop, with real Envoys: who passes, what is retried, what a failure costs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from mesh.agent import EnrolmentRefused, PortTaken, SidecarDied, State, admin
from mesh.agent.sidecar import utc_now
from mesh.contracts.model import ERROR_DOMAIN
from mesh.envoy import bootstrap
from mesh.identity import authority
from mesh.identity.enrolment import Credentials
from mesh.identity.spiffe import DeviceId, OperatorId, WorkloadId
from mesh.local.wan import HEALTHY, Fault
from mesh.place import EDGE
from mesh.runtime.principal import from_header
from tests.e2e.sidecars import DOMAIN, ENROLLED_MS, SmallMesh, call, path, status_of

pytestmark = pytest.mark.e2e

DENIED = grpc.StatusCode.PERMISSION_DENIED
OPERATOR = OperatorId(DOMAIN, "first")
DEVICE = DeviceId(DOMAIN, "encoder-1")


def _uris(answer: str) -> list[str]:
    """The identities in the header that the app got, first to last."""
    return [part.split("=", 1)[1] for part in answer.replace(",", ";").split(";") if "URI=" in part]


async def test_an_allowed_call_passes_and_carries_the_callers_identity(mesh: SmallMesh) -> None:
    await mesh.start(("eu", "beta"), ("eu", "alpha"))
    forged = {"x-forwarded-client-cert": "URI=spiffe://mesh.test/operator/root"}
    answer = await call(mesh.egress("eu", "alpha"), "Echo", forged)
    assert answer.startswith("eu ")
    assert _uris(answer) == ["spiffe://mesh.test/region/eu/workload/alpha"]


async def test_a_listed_workload_is_denied_what_it_is_not_listed_for(mesh: SmallMesh) -> None:
    await mesh.start(("eu", "beta"), ("eu", "alpha"))
    for method in ("Operate", "Report", "Follow", "Unheard"):
        assert (await status_of(call(mesh.egress("eu", "alpha"), method)))[0] == DENIED
    alpha = WorkloadId(DOMAIN, "eu", "alpha")
    around = mesh.direct(mesh.topology.inbound("eu", "beta"), alpha, "beta.eu.mesh.test")
    for method in ("Operate", "Report", "Follow", "Unheard"):
        assert (await status_of(call(around, method)))[0] == DENIED
    # An operator's certificate is of no use without an edge.
    operator = mesh.direct(mesh.topology.inbound("eu", "beta"), OPERATOR, "beta.eu.mesh.test")
    assert (await status_of(call(operator, "Operate")))[0] == DENIED
    assert not mesh.apps["eu"].seen


async def test_without_a_client_certificate_there_is_no_connection(mesh: SmallMesh) -> None:
    await mesh.start(("eu", "beta"), ("eu", "edge"))
    for address, name in (
        (mesh.topology.inbound("eu", "beta"), "beta.eu.mesh.test"),
        (mesh.topology.edge("eu"), "edge.eu.mesh.test"),
    ):
        code, _ = await status_of(call(mesh.direct(address, None, name), "Echo"))
        assert code == grpc.StatusCode.UNAVAILABLE
    assert not mesh.apps["eu"].seen


async def test_a_callee_that_is_somebody_else_is_not_talked_to(mesh: SmallMesh) -> None:
    await mesh.start(("eu", "beta"), ("eu", "alpha"))
    await mesh.sidecars["eu", "beta"].stop(drain=False)
    # Another workload of the same mesh answers at beta's address.
    place = mesh.place("eu", "beta")
    mesh.credentials(WorkloadId(DOMAIN, "eu", "gamma")).write(place.identity)
    impostor = mesh.sidecars["eu", "beta"]
    with pytest.raises(EnrolmentRefused, match=r"no valid identity of spiffe://mesh\.test/.*beta"):
        await impostor.start()
    mesh.credentials(WorkloadId(DOMAIN, "eu", "beta")).write(place.identity)
    await impostor.start()
    assert (await call(mesh.egress("eu", "alpha"), "Echo")).startswith("eu")
    await impostor.stop(drain=False)
    await impostor.start()
    mesh.credentials(WorkloadId(DOMAIN, "eu", "gamma")).write(place.identity)
    await eventually(lambda: _serves(mesh, place.identity))
    await mesh.apps["eu"].stop()  # nothing of what follows may reach it
    mesh.apps["eu"].seen.clear()
    await mesh.apps["eu"].start()
    code, _ = await status_of(call(mesh.egress("eu", "alpha"), "Once", within=5))
    assert code == grpc.StatusCode.UNAVAILABLE
    assert not mesh.apps["eu"].seen


async def test_edges_check_roles_and_pass_the_principal_on(mesh: SmallMesh) -> None:
    await mesh.start(("eu", "beta"), ("eu", "edge"))
    operator = mesh.through_edge("eu", OPERATOR)
    forged = {"x-forwarded-client-cert": "URI=spiffe://mesh.test/operator/root"}
    assert _uris(await call(operator, "Operate", forged)) == [
        OPERATOR.uri,
        "spiffe://mesh.test/region/eu/workload/edge",
    ]
    device = mesh.through_edge("eu", DEVICE)
    reported = await call(device, "Report")
    assert _uris(reported)[0] == DEVICE.uri
    principal = from_header(reported.removeprefix("eu "), DOMAIN)
    assert (principal.name, principal.enrolled_ms) == ("encoder-1", ENROLLED_MS)
    assert (await status_of(call(operator, "Report")))[0] == DENIED
    assert (await status_of(call(device, "Operate")))[0] == DENIED
    assert (await status_of(call(operator, "Echo")))[0] == DENIED
    workload = mesh.direct(
        mesh.topology.edge("eu"), WorkloadId(DOMAIN, "eu", "alpha"), "edge.eu.mesh.test"
    )
    assert (await status_of(call(workload, "Operate")))[0] == DENIED


async def test_a_call_finds_its_home(mesh: SmallMesh) -> None:
    await mesh.start(("eu", "beta"), ("us", "beta"), ("eu", "alpha"), ("eu", EDGE))
    apps = mesh.apps
    refused = await status_of(call(mesh.egress("eu", "alpha"), "Homed"))
    assert refused == (grpc.StatusCode.FAILED_PRECONDITION, "ask us")
    assert (apps["eu"].seen["Homed"], apps["us"].seen["Homed"]) == (1, 0)
    assert await call(mesh.egress("eu", "alpha", homes=True), "Homed") == "us"
    assert (apps["eu"].seen["Homed"], apps["us"].seen["Homed"]) == (2, 1)
    # Whoever knows the home is led there at once, through an edge as well.
    operator = mesh.through_edge("eu", OPERATOR)
    assert await call(operator, "Homed", {"x-isthmus-home": "us"}) == "us"
    assert (apps["eu"].seen["Homed"], apps["us"].seen["Homed"]) == (2, 2)


async def test_connections_beyond_the_limit_are_closed_and_the_application_goes_on(
    mesh: SmallMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "MOST_CONNECTIONS", 1)
    await mesh.start(("eu", "beta"))
    address = mesh.topology.inbound("eu", "beta")
    alpha = mesh.direct(address, WorkloadId(DOMAIN, "eu", "alpha"), "beta.eu.mesh.test")
    assert (await call(alpha, "Echo")).startswith("eu ")
    reader, writer = await asyncio.open_connection(address.host, address.port)
    async with asyncio.timeout(10):
        # Before any handshake.
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
    writer.close()
    # The one within the limit goes on, and so does what comes from this side.
    assert (await call(alpha, "Echo")).startswith("eu ")
    own = socket.socket(socket.AF_UNIX)
    with contextlib.closing(own):
        own.connect(str(mesh.place("eu", "beta").egress_socket))
        own.settimeout(0.5)
        with pytest.raises(TimeoutError):
            own.recv(1)
    log = (mesh.place("eu", "beta").logs / "envoy.log").read_text()
    assert "no configured limit" not in log


async def test_calls_beyond_the_limit_are_told_when_to_come_again(mesh: SmallMesh) -> None:
    await mesh.start(("eu", "beta"), ("eu", "alpha"))
    # Who may not call takes nothing from those who may.
    stranger = mesh.direct(
        mesh.topology.inbound("eu", "beta"), WorkloadId(DOMAIN, "eu", "gamma"), "beta.eu.mesh.test"
    )
    for _ in range(20):
        assert (await status_of(call(stranger, "Limited")))[0] == DENIED
    loop = asyncio.get_running_loop()
    alpha = mesh.egress("eu", "alpha")
    began, admitted, refusal = loop.time(), 0, None
    while admitted < 8:
        try:
            await call(alpha, "Limited")
            admitted += 1
        except grpc.aio.AioRpcError as error:
            assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            refusal = rpc_status.from_call(error)
            info, again = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
            assert refusal.details[0].Unpack(info) and refusal.details[1].Unpack(again)
            assert (info.reason, info.domain) == ("RATE_LIMITED", ERROR_DOMAIN)
            assert dict(info.metadata)["method"] == path("Limited")[1:]
            await asyncio.sleep(again.retry_delay.ToTimedelta().total_seconds())
    # Two at once, and the six others at five a second.
    assert refusal is not None and loop.time() - began >= 1.0
    assert mesh.apps["eu"].seen["Limited"] == admitted


async def test_failover_on_kill_loses_no_idempotent_call(mesh: SmallMesh) -> None:
    await mesh.start(("eu", "beta"), ("us", "beta"), ("eu", "alpha"))
    load = _Load(mesh.egress("eu", "alpha"))
    await load.until(lambda: load.answers["eu"] >= 200)
    await mesh.sidecars["eu", "beta"].kill()
    await load.until(lambda: load.answers["us"] >= 200)
    assert await load.stop() == []
    # And back, once the region returned.
    await mesh.sidecars["eu", "beta"].start()

    async def home() -> bool:
        return (await call(mesh.egress("eu", "alpha"), "Echo")).startswith("eu")

    await eventually(home, within=40)


async def test_certificates_rotate_under_load_without_a_failed_call(mesh: SmallMesh) -> None:
    await mesh.start(("eu", "beta"), ("eu", "alpha"))
    load = _Load(mesh.egress("eu", "alpha"))
    for _ in range(5):
        before = load.answers["eu"]
        for workload in ("alpha", "beta"):
            fresh = mesh.credentials(WorkloadId(DOMAIN, "eu", workload))
            fresh.write(mesh.place("eu", workload).identity)
        await load.until(lambda at=before: load.answers["eu"] >= at + 100)
    assert await load.stop() == []
    # The sidecar really serves the newest one.
    await eventually(lambda: _serves(mesh, mesh.place("eu", "beta").identity))


async def test_issuing_certificates_rotate_under_load_without_a_failed_call(
    mesh: SmallMesh,
) -> None:
    await mesh.start(("eu", "beta"), ("us", "beta"), ("eu", "alpha"))
    load = _Load(mesh.egress("eu", "alpha"))
    alpha = WorkloadId(DOMAIN, "eu", "alpha")
    for round_ in range(6):
        region = ("eu", "us")[round_ % 2]
        mesh.issuers[region] = authority.make_region_issuer(mesh.root, DOMAIN, region, utc_now())
        # One after the other, as they renew: who holds the new one meets who holds the former.
        for place in (("eu", "alpha"), ("eu", "beta"), ("us", "beta")):
            if place[0] == region:
                mesh.credentials(WorkloadId(DOMAIN, *place), region).write(
                    mesh.place(*place).identity
                )
            before = load.answers["eu"]
            await load.until(lambda at=before: load.answers["eu"] >= at + 30)
            for callee in ("eu", "us"):
                name = f"beta.{callee}.{DOMAIN}"
                fresh = mesh.direct(mesh.topology.inbound(callee, "beta"), alpha, name)
                await call(fresh, "Echo")
    assert await load.stop() == []
    await eventually(lambda: _serves(mesh, mesh.place("eu", "beta").identity))


async def test_roots_are_replaced_under_load_without_a_failed_call(mesh: SmallMesh) -> None:
    await mesh.start(("eu", "beta"), ("us", "beta"), ("eu", "alpha"))
    load = _Load(mesh.egress("eu", "alpha"))
    alpha = WorkloadId(DOMAIN, "eu", "alpha")
    former = mesh.credentials(alpha)
    first, second = mesh.root, authority.make_root(DOMAIN, utc_now())
    for root, others in (
        (first, (second.certificate,)),
        (second, (first.certificate,)),
        (second, ()),
    ):
        mesh.root = replace(root, others=others)
        mesh.issuers = {
            region: authority.make_region_issuer(mesh.root, DOMAIN, region, utc_now())
            for region in mesh.topology.region_names
        }
        # One after the other, as they renew: who has taken the step meets who has not.
        for place in mesh.sidecars:
            fresh = mesh.credentials(WorkloadId(DOMAIN, *place), place[0])
            fresh.write(mesh.place(*place).identity)
            await eventually(lambda at=place, to=fresh: _takes_up(mesh, at, to))
            before = load.answers["eu"]
            await load.until(lambda at=before: load.answers["eu"] >= at + 30)
            for callee in ("eu", "us"):
                name = f"beta.{callee}.{DOMAIN}"
                await call(mesh.direct(mesh.topology.inbound(callee, "beta"), alpha, name), "Echo")
    assert await load.stop() == []
    # Nobody lets in who is still below the first one.
    stranger = mesh.direct(
        mesh.topology.inbound("eu", "beta"), alpha, f"beta.eu.{DOMAIN}", held=former
    )
    code, _ = await status_of(call(stranger, "Echo"))
    assert code == grpc.StatusCode.UNAVAILABLE


async def test_draining_loses_no_call(mesh: SmallMesh) -> None:
    await mesh.start(("eu", "beta"), ("us", "beta"), ("eu", "alpha"))
    load = _Load(mesh.egress("eu", "alpha"))
    await load.until(lambda: load.answers["eu"] >= 100)
    await mesh.sidecars["eu", "beta"].stop()
    await load.until(lambda: load.answers["us"] >= 100)
    assert await load.stop() == []


async def test_a_stalled_link_ends_a_stream_within_seconds(mesh: SmallMesh) -> None:
    await mesh.start(("us", "beta"), ("eu", "beta"))
    channel = mesh.egress("eu", "beta", "beta.us")
    stream = aiter(channel.unary_stream(path("Follow"))(b""))
    assert await anext(stream) == b"us"
    mesh.wan.set_fault("us", "eu", Fault(stall=True))
    loop = asyncio.get_running_loop()
    began = loop.time()

    async def drain() -> None:
        async for _ in stream:
            pass

    # Its headers are long sent, so all that is left is a reset, which gRPC calls INTERNAL.
    code, _ = await asyncio.wait_for(status_of(drain()), 20)
    assert code == grpc.StatusCode.INTERNAL
    assert loop.time() - began < 10
    mesh.wan.set_fault("us", "eu", HEALTHY)

    async def follows_again() -> bool:
        code, _ = await status_of(anext(aiter(channel.unary_stream(path("Follow"))(b""))))
        return code == grpc.StatusCode.OK

    await eventually(follows_again)


async def test_a_taken_port_is_named_with_the_remedy(mesh: SmallMesh) -> None:
    address = mesh.topology.inbound("eu", "alpha")
    server = await asyncio.start_server(lambda r, w: None, address.host, address.port)
    async with server:
        with pytest.raises(PortTaken, match=rf"{address} cannot be used.*base_port in mesh\.yaml"):
            await mesh.start(("eu", "alpha"))
    assert mesh.sidecars["eu", "alpha"].pid is None


async def test_an_envoy_that_dies_is_reported(mesh: SmallMesh) -> None:
    await mesh.start(("eu", "alpha"))
    sidecar = mesh.sidecars["eu", "alpha"]
    watching = asyncio.ensure_future(sidecar.wait())
    pid = sidecar.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(SidecarDied, match="SIGKILL"):
        await watching
    assert sidecar.status.state is State.FAILED
    await sidecar.start()
    assert sidecar.status.state is State.READY


class _Load:
    """Callers in a loop; counts answers by region and keeps what failed."""

    def __init__(self, channel: grpc.aio.Channel, callers: int = 8) -> None:
        self.answers = {"eu": 0, "us": 0}
        self._failures: list[str] = []
        self._stopping = False
        self._progress = asyncio.Condition()
        self._tasks = [asyncio.ensure_future(self._run(channel)) for _ in range(callers)]

    async def until(self, reached: Callable[[], bool]) -> None:
        """Waits until `reached()` holds."""
        async with self._progress:
            await asyncio.wait_for(self._progress.wait_for(reached), 40)

    async def stop(self) -> list[str]:
        """Ends the callers; returns every failure."""
        self._stopping = True
        await asyncio.gather(*self._tasks)
        return self._failures

    async def _run(self, channel: grpc.aio.Channel) -> None:
        while not self._stopping:
            try:
                answer = await call(channel, "Echo")
                self.answers[answer.split()[0]] += 1
            except grpc.aio.AioRpcError as error:
                self._failures.append(f"{error.code().name}: {error.details()}")
            async with self._progress:
                self._progress.notify_all()


async def eventually(holds: Callable[[], Awaitable[bool]], within: float = 20.0) -> None:
    """Waits until it holds."""
    async with asyncio.timeout(within):
        while True:
            if await holds():
                return
            await asyncio.sleep(0.1)


async def _takes_up(mesh: SmallMesh, place: tuple[str, str], fresh: Credentials) -> bool:
    """Whether all that a sidecar does by TLS goes by this leaf, and trusts these roots."""
    page = json.loads(await admin.get(mesh.place(*place).admin_socket, "/certs"))
    leaf = x509.load_pem_x509_certificate(fresh.chain_pem)
    roots = x509.load_pem_x509_certificates(fresh.trust_pem)
    return all(
        int(each["cert_chain"][0]["serial_number"], 16) == leaf.serial_number
        and {int(ca["serial_number"], 16) for ca in each["ca_cert"]}
        == {root.serial_number for root in roots}
        for each in page["certificates"]
    )


async def _serves(mesh: SmallMesh, identity: Path) -> bool:
    """Whether beta's sidecar shows the certificate that lies in the folder."""
    address = mesh.topology.inbound("eu", "beta")
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    _, writer = await asyncio.open_connection(address.host, address.port, ssl=context)
    try:
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    finally:
        writer.close()
    kept = x509.load_pem_x509_certificate((identity / "tls.crt").read_bytes())
    return x509.load_der_x509_certificate(der).serial_number == kept.serial_number
