"""The edge of a mesh that `isthmus up` runs, asked by curl, grpcurl and pages as they are.

A mesh of its own, of one region, whose `mesh.yaml` lets in a page and operators by token.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
from isthmus.devices.v1 import gateway_pb2 as api
from isthmus.devices.v1 import gateway_pb2_grpc as rpc

from mesh.authority import device_token
from mesh.local.detach import start_detached, stop
from mesh.local.layout import Layout
from mesh.local.ports import claim_blocks
from mesh.runtime import identity
from mesh.topology import load
from tests.support.tokens import AUDIENCE, ISSUER, Issuer

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

ROOT = Path(__file__).resolve().parents[2]
ORIGIN = "https://console.example.org"
CHANNELS = "isthmus.channels.v1.ChannelService"
GRPCURL = shutil.which("grpcurl", path=f"{ROOT / 'build' / 'bin'}{os.pathsep}{os.environ['PATH']}")
needs_grpcurl = pytest.mark.skipif(
    GRPCURL is None,
    reason="no grpcurl: go install github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3",
)
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")

MESH = """\
version: 1
trust_domain: isthmus.test
regions:
  - {{name: eu, host: 127.0.0.1, base_port: {base}}}
workloads: [authority, devices, channels, overview]
media: {{root: media, origin: "127.0.0.1:{origin}"}}
edge:
  origins: [{page}]
  jwt: {{issuer: "{issuer}", audience: {audience}, keys: operators.jwks.json}}
"""


@dataclass(frozen=True)
class Open:
    """The mesh, whose issuer of tokens is ours, and two devices that enrolled in it."""

    layout: Layout
    issuer: Issuer

    @property
    def folder(self) -> Path:
        """Where its `mesh.yaml` is."""
        return self.layout.state.parent

    @property
    def edge(self) -> str:
        """Where its edge is: host:port."""
        return f"localhost:{self.layout.topology.edge('eu').port}"

    def identity(self, name: str) -> Path:
        """The identity folder of a device that is called so."""
        return self.folder / name

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Runs a command in its folder."""
        return subprocess.run(
            words, cwd=self.folder, capture_output=True, text=True, check=False, timeout=60
        )

    def grpcurl(self, *words: str, who: str = "") -> subprocess.CompletedProcess[str]:
        """Runs grpcurl with the certificate in a folder, or without any."""
        assert GRPCURL is not None
        own = ["-cert", f"{who}/tls.crt", "-key", f"{who}/tls.key"] if who else []
        return self.run(GRPCURL, "-cacert", ".isthmus/operator/trust.crt", *own, *words)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Open]:
    folder, issuer, claim = tmp_path_factory.mktemp("open"), Issuer(), claim_blocks(2)
    (folder / "operators.jwks.json").write_text(issuer.key_set())
    (folder / "mesh.yaml").write_text(
        MESH.format(
            base=claim.bases[0],
            origin=claim.bases[1],
            page=ORIGIN,
            issuer=ISSUER,
            audience=AUDIENCE,
        )
    )
    layout = Layout.of(load(folder / "mesh.yaml"))
    made = Open(layout, issuer)

    async def start() -> None:
        await start_detached(layout, tied=True)
        for name in ("encoder-1", "encoder-2"):
            token = device_token(layout.state, layout.topology, "eu", name, datetime.now(UTC))
            address = str(layout.topology.enrolment("eu"))
            await identity.enrol(made.identity(name), address, token)

    try:
        asyncio.run(start())
        yield made
    finally:
        asyncio.run(stop(layout))
        claim.release()


def readme() -> list[str]:
    """The lines of the README's first block about scripts."""
    block = re.search(
        r"## Scripts and browsers\n.*?```\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL
    )
    assert block is not None
    return block[1].replace("\\\n", " ").splitlines()


@needs_curl
def test_the_readmes_lines_for_scripts_work(mesh: Open) -> None:
    define, *commands = [line.partition("  #")[0] for line in readme()]
    assert len(commands) >= 3
    for command in commands:
        # What follows for ever is read for a while.
        ended = "watch" not in command
        line = command.replace("localhost:21000", mesh.edge)
        done = mesh.run("bash", "-c", f"{define}\n{line}{'' if ended else ' --max-time 3'}")
        assert done.returncode == (0 if ended else 28), (command, done.stderr)
        for each in done.stdout.splitlines() if not ended else [done.stdout]:
            json.loads(each)
        assert done.stdout


@needs_curl
def test_who_came_by_token_is_whom_the_service_notes(mesh: Open) -> None:
    def curl(*words: str) -> str:
        token = f"authorization: Bearer {mesh.issuer.token('ann')}"
        done = mesh.run(
            "curl", "-sS", "--cacert", ".isthmus/operator/trust.crt", "-H", token, *words
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = f"https://{mesh.edge}/v1/channels"
    made = {"channel_id": "by-token", "title": "T", "source": {"testPattern": "TEST_PATTERN_CLOCK"}}
    curl("-d", json.dumps(made), where)
    # A request with neither certificate nor token is nobody's.
    nobody = mesh.run(
        "curl", "-s", "--cacert", ".isthmus/operator/trust.crt", "-w", "%{http_code}", where
    )
    assert nobody.stdout.endswith("403")
    curl("-d", "{}", f"{where}/by-token:start")
    renamed = {"update": {"title": "U"}, "updateMask": "title"}
    curl("-X", "PATCH", "-d", json.dumps(renamed), f"{where}/by-token")
    assert json.loads(curl(f"{where}/by-token"))["channel"]["title"] == "U"
    changes = json.loads(curl(f"{where}/by-token/history"))["changes"]
    actors = {change["actor"] for change in changes}
    assert "spiffe://isthmus.test/operator/ann" in actors
    # Beside the hop that it came by, and signed by the edge.
    logs = mesh.layout.place("eu", "channels").logs
    calls = [
        json.loads(line)
        for file in logs.glob("service*.log")
        for line in file.read_text(errors="replace").splitlines()
        if '"StartChannel' in line or "/StartChannel" in line
    ]
    assert (
        "spiffe://isthmus.test/region/eu/workload/edge",
        "spiffe://isthmus.test/operator/ann",
    ) in {(call["hop"], call["on_behalf_of"]) for call in calls}
    curl("-d", "{}", f"{where}/by-token:stop")
    assert json.loads(curl("-X", "DELETE", f"{where}/by-token")) == {}
    assert json.loads(curl(f"{where}/by-token"))["code"] == grpc.StatusCode.NOT_FOUND.value[0]


@needs_curl
def test_a_page_may_call_if_mesh_yaml_names_it(mesh: Open) -> None:
    for origin, allowed in ((ORIGIN, True), ("https://evil.example", False)):
        done = mesh.run(
            *("curl", "-sS", "-D", "-", "-o", "/dev/null", "-X", "OPTIONS"),
            *("--cacert", ".isthmus/operator/trust.crt"),
            *("-H", f"origin: {origin}", "-H", "access-control-request-method: POST"),
            f"https://{mesh.edge}/{CHANNELS}/ListChannels",
        )
        assert (f"access-control-allow-origin: {origin}" in done.stdout.lower()) is allowed
    frame = mesh.folder / "frame"
    frame.write_bytes(bytes(5))
    web = mesh.run(
        *("curl", "-sS", "--cacert", ".isthmus/operator/trust.crt", "-D", "-", "-o", "answer"),
        *("-H", f"origin: {ORIGIN}", "-H", "content-type: application/grpc-web+proto"),
        *("-H", f"authorization: Bearer {mesh.issuer.token('ann')}"),
        *("--data-binary", f"@{frame}", f"https://{mesh.edge}/{CHANNELS}/ListChannels"),
    )
    assert "200" in web.stdout.splitlines()[0]
    assert b"grpc-status:0" in (mesh.folder / "answer").read_bytes()


@needs_grpcurl
def test_grpcurl_with_mutual_tls(mesh: Open) -> None:
    call = (mesh.edge, f"{CHANNELS}/ListChannels")
    good = mesh.grpcurl(*call, who=".isthmus/operator")
    assert good.returncode == 0, good.stderr
    for who, words in (
        ("", ()),
        # A device is no operator, whatever it says beside its certificate.
        ("encoder-1", ()),
        ("encoder-1", ("-H", f"authorization: Bearer {mesh.issuer.token('ann')}")),
        (
            "encoder-1",
            ("-H", "x-forwarded-client-cert: URI=spiffe://isthmus.test/operator/local"),
        ),
    ):
        denied = mesh.grpcurl("-protoset", str(_protoset(mesh)), *words, *call, who=who)
        assert "PermissionDenied" in denied.stderr, (who, words, denied)
    token = ("-H", f"authorization: Bearer {mesh.issuer.token('ann')}")
    assert mesh.grpcurl(*token, *call).returncode == 0
    # What it opens ends with it: there is no certificate for a token.
    asked = ("-d", '{"signing_request": "AAAA"}')
    renewed = mesh.grpcurl(*token, *asked, mesh.edge, "isthmus.mesh.v1.AuthorityService/Renew")
    assert "NO_CERTIFICATE" in renewed.stderr


async def test_a_device_speaks_for_itself_alone(mesh: Open) -> None:
    async def hello(who: str, claimed: str) -> grpc.StatusCode:
        held = mesh.identity(who)
        credentials = grpc.ssl_channel_credentials(
            (held / "trust.crt").read_bytes(),
            (held / "tls.key").read_bytes(),
            (held / "tls.crt").read_bytes(),
        )
        forged = f"URI=spiffe://isthmus.test/device/{claimed}"
        async with grpc.aio.secure_channel(mesh.edge, credentials) as channel:
            call = rpc.DeviceGatewayServiceStub(channel).Connect(
                timeout=10, metadata=(("x-forwarded-client-cert", forged),)
            )
            said = api.Hello(device_id=claimed, region="eu", model="test", capacity=1)
            await call.write(api.ConnectRequest(hello=said))
            try:
                answer = await call.read()
            except grpc.aio.AioRpcError as error:
                return error.code()
            assert isinstance(answer, api.ConnectResponse)
            call.cancel()
            return grpc.StatusCode.OK

    assert await hello("encoder-1", "encoder-1") is grpc.StatusCode.OK
    assert await hello("encoder-1", "encoder-2") is grpc.StatusCode.PERMISSION_DENIED


@needs_curl
def test_slow_clients_hold_nobody_up(mesh: Open) -> None:
    """A few hundred that never finish what they began, with TLS and without."""
    address = mesh.layout.topology.edge("eu")
    held = [socket.create_connection((address.host, address.port)) for _ in range(300)]
    try:
        for each in held[:150]:
            each.sendall(b"\x16\x03\x01")
        done = mesh.run(
            *("curl", "-sS", "--max-time", "5", "--cacert", ".isthmus/operator/trust.crt"),
            *("--cert", ".isthmus/operator/tls.crt", "--key", ".isthmus/operator/tls.key"),
            f"https://{mesh.edge}/v1/channels",
        )
        assert done.returncode == 0, done.stderr
        # The edge ends them by itself, within the time that a handshake may take.
        for each in held:
            each.settimeout(30)
            assert each.recv(1) == b""
    finally:
        for each in held:
            each.close()


def _protoset(mesh: Open) -> Path:
    """Descriptors for who may not reflect."""
    file = mesh.folder / "contracts.binpb"
    if not file.exists():
        done = mesh.grpcurl(
            *("-protoset-out", str(file), mesh.edge, "describe", CHANNELS), who=".isthmus/operator"
        )
        assert done.returncode == 0, done.stderr
    return file
