"""A control plane for tests, as other processes see it, and what an Envoy says of itself."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import grpc

from mesh.agent import admin
from mesh.envoy import ControlPlane, running
from mesh.identity import authority
from mesh.identity.spiffe import WorkloadId
from mesh.topology import Address
from mesh.xds import SERVER_OPTIONS, AdsServer, Compiler, Fleet, Revision, by_certificate
from tests.e2e.sidecars import DOMAIN, SmallMesh

CONTROL = WorkloadId(DOMAIN, "eu", "control")


class Plane:
    """Serves a small mesh by mTLS, at an address that survives its restarts."""

    def __init__(self, mesh: SmallMesh) -> None:
        self._mesh = mesh
        region = mesh.topology.region("eu")
        self.address = Address(region.host, region.base_port + 80)
        mesh.control = ControlPlane(self.address, CONTROL)
        self._server: grpc.aio.Server | None = None
        self.ads: AdsServer | None = None

    def revision(self, name: str) -> Revision:
        """What the mesh's contract says now, compiled from nothing."""
        return Compiler().revision(name, self._mesh.contract, self._mesh.topology)

    async def start(self, revision: Revision) -> AdsServer:
        """Listens; knows nothing of any life before."""
        held = self._mesh.credentials(CONTROL)
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0), *SERVER_OPTIONS])
        self.ads = AdsServer(Fleet(revision), by_certificate(DOMAIN))
        self.ads.add_to(self._server)
        credentials = grpc.ssl_server_credentials(
            [(held.key_pem, held.chain_pem)],
            authority.pem(self._mesh.root.certificate),
            require_client_auth=True,
        )
        self._server.add_secure_port(str(self.address), credentials)
        await self._server.start()
        return self.ads

    async def stop(self) -> None:
        """Ends at once, as a process that is killed does."""
        if self._server is not None:
            await self._server.stop(None)
            self._server = None


class Said:
    """An Envoy's own account, by its admin socket."""

    def __init__(self, mesh: SmallMesh, region: str, workload: str) -> None:
        self._socket = mesh.place(region, workload).admin_socket

    async def statistics(self, name: str) -> dict[str, int]:
        """The counters whose names this regular expression is found in."""
        return await statistics_of(self._socket, name)

    async def discovered(self) -> dict[tuple[str, str], tuple[str, Any]]:
        """What it discovered: (type, name) -> version, JSON without the blanks of proto3."""
        return await discovered_by(self._socket)


async def statistics_of(socket: Path, name: str) -> dict[str, int]:
    """The counters of the Envoy behind an admin socket whose names this is found in."""
    text = (await admin.get(socket, "/stats")).decode()
    lines = [line.split(": ") for line in text.splitlines()]
    return {
        found[0]: int(found[1])
        for found in lines
        if re.search(name, found[0]) and found[1].isdigit()
    }


async def discovered_by(socket: Path) -> dict[tuple[str, str], tuple[str, Any]]:
    """What it discovered: (type, name) -> version, JSON without the blanks of proto3."""
    dump = json.loads(await admin.get(socket, running.CONFIG_PAGE))
    return {
        (each.type_url, each.name): (each.version, each.value)
        for each in running.dumped(dump)
        if each.discovered and each.type_url != running.ENDPOINTS
    }


async def eventually(condition: Any, within: float = 15.0) -> None:
    """Waits until an awaitable condition holds."""
    async with asyncio.timeout(within):
        while not await condition():
            await asyncio.sleep(0.02)
