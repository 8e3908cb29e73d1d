"""gRPC's own xDS clients as judges of our state-of-the-world protocol: two independent ones."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from mesh.topology import Address
from mesh.xds import SERVER_OPTIONS, AdsServer, Fleet, Revision
from mesh.xds.kinds import CLUSTER, ENDPOINTS
from tests.support.grpc_js import grpc_js
from tests.support.ports import free_blocks
from tests.support.proxyless import CLIENT, revision

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parents[2]


class Judge:
    """Backends, a control plane and a client process."""

    def __init__(self, folder: Path, client: list[str]) -> None:
        self._command = client
        base = free_blocks(1)[0]
        self.backends = {"a": Address("127.0.0.1", base), "b": Address("127.0.0.1", base + 1)}
        self._address = Address("127.0.0.1", base + 2)
        self._servers: list[grpc.aio.Server] = []
        self._control: grpc.aio.Server | None = None
        self._bootstrap = folder / "bootstrap.json"
        self._client: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Starts all but the control plane."""
        for name, address in self.backends.items():
            server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
            handler = grpc.unary_unary_rpc_method_handler(_saying(name))
            server.add_generic_rpc_handlers(
                (grpc.method_handlers_generic_handler("test.v1.Greeter", {"Who": handler}),)
            )
            server.add_insecure_port(str(address))
            await server.start()
            self._servers.append(server)
        document = {
            "xds_servers": [
                {
                    "server_uri": str(self._address),
                    "channel_creds": [{"type": "insecure"}],
                    "server_features": ["xds_v3"],
                }
            ],
            "node": {"id": "whoever", "locality": {"region": "eu", "zone": "", "sub_zone": ""}},
        }
        self._bootstrap.write_text(json.dumps(document))
        self._client = await asyncio.create_subprocess_exec(
            *self._command,
            cwd=ROOT,
            env={**os.environ, "GRPC_XDS_BOOTSTRAP": str(self._bootstrap)},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )

    async def control(self, first: Revision) -> AdsServer:
        """A control plane that knows nothing of any before it."""
        await self.stop_control()
        self._control = grpc.aio.server(options=[("grpc.so_reuseport", 0), *SERVER_OPTIONS])
        ads = AdsServer(Fleet(first), lambda peer: CLIENT)
        ads.add_to(self._control)
        self._control.add_insecure_port(str(self._address))
        await self._control.start()
        return ads

    async def stop_control(self) -> None:
        """Ends it at once."""
        if self._control is not None:
            await self._control.stop(None)
            self._control = None

    async def call(self, times: int = 20) -> dict[str, int]:
        """Who answered how often."""
        assert self._client is not None
        assert self._client.stdin is not None
        assert self._client.stdout is not None
        self._client.stdin.write(f"{times}\n".encode())
        async with asyncio.timeout(30):
            answers: dict[str, int] = json.loads(await self._client.stdout.readline())
        return answers

    async def answered_by(self, *names: str) -> None:
        """Waits until exactly these answer; no call may fail meanwhile."""
        async with asyncio.timeout(30):
            while True:
                answers = await self.call()
                assert answers.keys() <= self.backends.keys(), answers
                if answers.keys() == set(names):
                    return

    async def close(self) -> None:
        """Ends everything."""
        if self._client is not None:
            self._client.kill()
            await self._client.wait()
        await self.stop_control()
        for server in self._servers:
            await server.stop(None)


def _saying(name: str) -> Any:
    async def who(request: bytes, context: Any) -> bytes:
        return name.encode()

    return who


@pytest.fixture(params=["grpcio", "grpc-js"])
async def judge(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Judge]:
    grpcio = [sys.executable, "-m", "tests.support.xds_call"]
    made = Judge(tmp_path, grpcio if request.param == "grpcio" else grpc_js())
    try:
        await made.start()
        yield made
    finally:
        await made.close()


async def test_endpoints_come_and_go_for_grpcs_own_client(judge: Judge) -> None:
    a, b = judge.backends["a"], judge.backends["b"]
    ads = await judge.control(revision("r1", [a]))
    await judge.answered_by("a")
    assert (await ads.acknowledged("r1", [CLIENT], within=10)).complete
    before = ads.traffic.resources
    ads.fleet.offer(revision("r2", [a, b]))
    assert (await ads.acknowledged("r2", [CLIENT], within=10)).complete
    await judge.answered_by("a", "b")
    assert ads.traffic.resources - before == 1  # the endpoints
    ads.fleet.offer(revision("r3", [b]))
    assert (await ads.acknowledged("r3", [CLIENT], within=10)).complete
    await judge.answered_by("b")


async def test_a_restart_goes_unnoticed_and_sends_nothing_again(judge: Judge) -> None:
    a, b = judge.backends["a"], judge.backends["b"]
    ads = await judge.control(revision("r1", [a, b]))
    await judge.answered_by("a", "b")
    assert (await ads.acknowledged("r1", [CLIENT], within=10)).complete
    await judge.stop_control()
    await judge.answered_by("a", "b")
    ads = await judge.control(revision("r1", [a, b]))
    assert (await ads.acknowledged("r1", [CLIENT], within=30)).complete
    assert ads.traffic.resources == 0
    await judge.answered_by("a", "b")


async def test_what_grpc_rejects_is_told_and_does_no_harm(judge: Judge) -> None:
    a, b = judge.backends["a"], judge.backends["b"]
    ads = await judge.control(revision("r1", [a]))
    await judge.answered_by("a")
    assert (await ads.acknowledged("r1", [CLIENT], within=10)).complete
    ads.fleet.offer(revision("bad", [a, b], policy="MAGLEV"))
    (rejection,) = (await ads.acknowledged("bad", [CLIENT], within=10)).rejected.values()
    assert "polic" in rejection.text.lower()
    assert rejection.names == ("backends",)
    (view,) = ads.fleet.views()
    assert (view.revision, view.acknowledged) == ("bad", "r1")
    assert [t.rejection for t in view.types if t.type_url == CLUSTER] == [rejection]
    assert [t.rejection for t in view.types if t.type_url == ENDPOINTS] == [None]
    assert (await judge.call()).keys() <= {"a", "b"}
    ads.fleet.withdraw()
    assert (await ads.acknowledged("r1", [CLIENT], within=10)).complete
    await judge.answered_by("a")
