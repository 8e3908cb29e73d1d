"""A gateway to test device agents with: real gRPC over real mTLS, and a script's commands."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path

import grpc
from isthmus.devices.v1 import gateway_pb2 as api
from isthmus.devices.v1.device_pb2 import Encoding
from isthmus.devices.v1.gateway_pb2_grpc import (
    DeviceGatewayServiceServicer,
    add_DeviceGatewayServiceServicer_to_server,
)
from isthmus.mesh.v1.authority_pb2 import (
    Certificate,
    EnrolRequest,
    EnrolResponse,
    RenewRequest,
    RenewResponse,
)
from isthmus.mesh.v1.authority_pb2_grpc import (
    AuthorityServiceServicer,
    EnrolmentServiceServicer,
    add_AuthorityServiceServicer_to_server,
    add_EnrolmentServiceServicer_to_server,
)

from mesh.identity import authority, enrolment, folder, keys
from mesh.identity.authority import Leaf
from mesh.identity.spiffe import DeviceId, Identity, WorkloadId

DOMAIN = "isthmus.test"
HOST = str(ip_address("127.0.0.1"))


class TestAuthority:
    """A root and one region's issuer."""

    __test__ = False

    def __init__(self, region: str = "eu") -> None:
        self.region = region
        self.root = authority.make_root(DOMAIN, _now())
        self.issuer = authority.make_region_issuer(self.root, DOMAIN, region, _now())

    def leaf(self, identity: Identity, hosts: tuple[str, ...] = ()) -> tuple[Leaf, bytes]:
        """A certificate and its key as PEM."""
        key = keys.make_key()
        signed = authority.sign(self.issuer, keys.signing_request(key), identity, _now(), hosts)
        return signed, keys.key_pem(key)

    def certificate(self, signing_request: bytes, identity: Identity) -> Certificate:
        """What an authority answers."""
        leaf = authority.sign(self.issuer, signing_request, identity, _now())
        return Certificate(
            chain_pem=leaf.chain_pem.decode(),
            trust_pem=leaf.trust_pem.decode(),
            spiffe_id=leaf.identity.uri,
        )

    def write_device(self, path: Path, device_id: str) -> None:
        """An identity folder for a device."""
        leaf, key = self.leaf(DeviceId(DOMAIN, device_id))
        folder.write(path, leaf.chain_pem, key, leaf.trust_pem)

    def server_credentials(self, name: str, *, client: bool = True) -> grpc.ServerCredentials:
        """For a server of the region's workload `name`; with `client` it asks for a certificate."""
        identity = WorkloadId(DOMAIN, self.region, name)
        leaf, key = self.leaf(identity, (HOST,))
        chain = enrolment.presented(identity.uri, leaf.chain_pem, leaf.trust_pem)
        return grpc.ssl_server_credentials(
            [(key, chain)], leaf.trust_pem if client else None, require_client_auth=client
        )


class FakeGateway(DeviceGatewayServiceServicer):
    """Takes sessions; `send` commands, `reported` reads."""

    def __init__(self, test_authority: TestAuthority) -> None:
        self._authority = test_authority
        self._server: grpc.aio.Server | None = None
        self._outbox: asyncio.Queue[api.ConnectResponse] = asyncio.Queue()
        self.port = 0
        self.hellos: list[api.Hello] = []
        self.encodings: dict[str, Encoding] = {}
        self.restarts = 0
        self.silent = False

    async def start(self, port: int = 0) -> None:
        """Listens on `port`, or on any."""
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        add_DeviceGatewayServiceServicer_to_server(self, self._server)
        self.port = self._server.add_secure_port(
            f"{HOST}:{port}", self._authority.server_credentials("edge")
        )
        await self._server.start()

    async def stop(self) -> None:
        """Ends every session at once."""
        if self._server is not None:
            await self._server.stop(0)
            self._server = None

    @property
    def address(self) -> str:
        """host:port."""
        return f"{HOST}:{self.port}"

    def send(self, *commands: api.Run | api.Fence) -> None:
        """Commands for whoever is connected."""
        for command in commands:
            if isinstance(command, api.Run):
                self._outbox.put_nowait(api.ConnectResponse(run=command))
            else:
                self._outbox.put_nowait(api.ConnectResponse(fence=command))

    async def Connect(
        self,
        request_iterator: AsyncIterator[api.ConnectRequest],
        context: grpc.aio.ServicerContext[api.ConnectRequest, api.ConnectResponse],
    ) -> AsyncIterator[api.ConnectResponse]:
        """One session."""
        first = await anext(request_iterator)
        self.hellos.append(first.hello)
        reader = asyncio.create_task(self._read(request_iterator))
        try:
            yield api.ConnectResponse(welcome=api.Welcome(gateway_region="eu", epoch=1))
            while not reader.done():
                try:
                    yield await asyncio.wait_for(self._outbox.get(), 0.5)
                except TimeoutError:
                    if not self.silent:
                        yield api.ConnectResponse(ping=api.Ping())
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def _read(self, requests: AsyncIterator[api.ConnectRequest]) -> None:
        async for request in requests:
            self.encodings = {e.channel_id: e for e in request.report.encodings.encodings}
            self.restarts += request.report.encoder_restarts


class FakeEnrolment(EnrolmentServiceServicer):
    """Gives one device a certificate for any token."""

    def __init__(self, test_authority: TestAuthority, device_id: str) -> None:
        self._authority = test_authority
        self._device = DeviceId(DOMAIN, device_id)
        self._server = grpc.aio.server()
        self.address = ""

    async def start(self) -> None:
        """Listens."""
        add_EnrolmentServiceServicer_to_server(self, self._server)
        credentials = self._authority.server_credentials("authority", client=False)
        self.address = f"{HOST}:{self._server.add_secure_port(f'{HOST}:0', credentials)}"
        await self._server.start()

    async def stop(self) -> None:
        """Stops."""
        await self._server.stop(0)

    async def Enrol(
        self,
        request: EnrolRequest,
        context: grpc.aio.ServicerContext[EnrolRequest, EnrolResponse],
    ) -> EnrolResponse:
        """Signs."""
        return EnrolResponse(
            certificate=self._authority.certificate(request.signing_request, self._device)
        )


class FakeRenewal(AuthorityServiceServicer):
    """Renews whoever asks as one device."""

    def __init__(self, test_authority: TestAuthority, device_id: str) -> None:
        self._authority = test_authority
        self._device = DeviceId(DOMAIN, device_id)
        self._server = grpc.aio.server()
        self.address = ""

    async def start(self) -> None:
        """Listens."""
        add_AuthorityServiceServicer_to_server(self, self._server)
        credentials = self._authority.server_credentials("edge")
        self.address = f"{HOST}:{self._server.add_secure_port(f'{HOST}:0', credentials)}"
        await self._server.start()

    async def stop(self) -> None:
        """Stops."""
        await self._server.stop(0)

    async def Renew(
        self,
        request: RenewRequest,
        context: grpc.aio.ServicerContext[RenewRequest, RenewResponse],
    ) -> RenewResponse:
        """Signs."""
        return RenewResponse(
            certificate=self._authority.certificate(request.signing_request, self._device)
        )


def _now() -> datetime:
    return datetime.now(UTC)
