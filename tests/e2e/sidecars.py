"""A small mesh for tests: real Envoys in two regions, and services of bytes behind them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from mesh import topology as topologies
from mesh.agent import Sidecar
from mesh.agent.sidecar import utc_now
from mesh.contracts.model import (
    Callers,
    Consistency,
    Contract,
    Durability,
    Idempotency,
    Locality,
    Location,
    Method,
    RateLimit,
    Retry,
    Role,
    Service,
)
from mesh.envoy import ControlPlane
from mesh.identity import authority, keys
from mesh.identity.enrolment import Credentials
from mesh.identity.folder import Held
from mesh.identity.spiffe import DeviceId, Identity, OperatorId, WorkloadId
from mesh.local.wan import Wan
from mesh.place import EDGE, Place
from mesh.runtime.errors import FailedPrecondition, abort
from mesh.runtime.home_calls import HomeCalls
from mesh.topology import Topology

SERVICE = "test.v1.BetaService"
DOMAIN = "mesh.test"
WORKLOADS = ("alpha", "beta", "gamma")
_HERE = Location("test.proto", 1)
_ALPHA = Callers(workloads=frozenset({"alpha"}))


def _method(name: str, callers: Callers = _ALPHA, **changes: Any) -> Method:
    given: dict[str, Any] = {
        "client_streaming": False,
        "server_streaming": False,
        "idempotency": Idempotency.UNKNOWN,
        "locality": Locality.NEAREST,
        "consistency": Consistency.EVENTUAL,
        "durability": Durability.REGION,
        "timeout": 10.0,
        "stream_max_age": None,
        "retry": None,
        "rate_limit": None,
    }
    return Method(SERVICE, name, "", "", callers=callers, location=_HERE, **(given | changes))


_REPEATABLE: dict[str, Any] = {
    "idempotency": Idempotency.IDEMPOTENT,
    "retry": Retry(3, 1.0),
    "timeout": 5.0,
}
METHODS = (
    # Answers with the identity header that it got.
    _method("Echo", **_REPEATABLE),
    # Never answers; not idempotent.
    _method("Once"),
    # Ends with the status that the caller names.
    _method("Fail", **_REPEATABLE),
    # Answers like Echo, in the own region alone, and is never repeated.
    _method("Near", locality=Locality.LOCAL),
    # The same in any region.
    _method("Plain"),
    # Five a second, two at once.
    _method("Limited", rate_limit=RateLimit(5, 2)),
    # Sends a message every 50 ms to a peer.
    _method(
        "Follow",
        Callers(peers=True),
        server_streaming=True,
        timeout=None,
        stream_max_age=60.0,
        locality=Locality.PINNED,
    ),
    _method("Operate", Callers(roles=frozenset({Role.OPERATOR})), **_REPEATABLE),
    # The home of what it names is us.
    _method(
        "Homed",
        Callers(workloads=frozenset({"alpha"}), roles=frozenset({Role.OPERATOR})),
        locality=Locality.HOME,
    ),
    _method("Change", Callers(roles=frozenset({Role.OPERATOR}))),
    # Never answers.
    _method("Hold", Callers(roles=frozenset({Role.OPERATOR}))),
    # Never answers, with a short deadline.
    _method(
        "Upload", Callers(roles=frozenset({Role.DEVICE})), timeout=1.0, locality=Locality.LOCAL
    ),
    _method("Report", Callers(roles=frozenset({Role.DEVICE})), locality=Locality.LOCAL),
)
ECHOES = ("Echo", "Near", "Plain", "Limited", "Operate", "Change", "Report")
"""Those that answer with what they got."""
ENROLLED_MS = 1_700_000_000_123
CONTRACT = Contract(
    {
        SERVICE: Service(SERVICE, "beta", None, "tests", "", METHODS, _HERE),
        "test.v1.AlphaService": Service(
            "test.v1.AlphaService", "alpha", None, "tests", "", (), _HERE
        ),
        "test.v1.GammaService": Service(
            "test.v1.GammaService", "gamma", None, "tests", "", (), _HERE
        ),
    },
    {},
)


def path(method: str) -> str:
    """The HTTP/2 path of one of `METHODS`."""
    return f"/{SERVICE}/{method}"


@dataclass
class App:
    """The service behind beta's sidecar in one region: counts calls, holds some for ever."""

    region: str
    socket: Path
    seen: Counter[str] = field(default_factory=Counter)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    metadata: dict[str, Any] = field(default_factory=dict)
    _server: grpc.aio.Server | None = None

    async def start(self) -> None:
        """Listens, healthy."""
        self.socket.unlink(missing_ok=True)
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        checked = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(checked, self._server)
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, self.handlers()),)
        )
        self._server.add_insecure_port(f"unix:{self.socket}")
        await self._server.start()
        await checked.set("", health_pb2.HealthCheckResponse.SERVING)

    def handlers(self) -> dict[str, grpc.RpcMethodHandler]:
        """Its methods."""
        unary = dict.fromkeys(ECHOES, self._echo)
        unary |= dict.fromkeys(("Once", "Hold", "Upload"), self._hold)
        unary |= {"Homed": self._homed, "Fail": self._fail}
        handlers: dict[str, grpc.RpcMethodHandler] = {
            name: grpc.unary_unary_rpc_method_handler(self._counted(name, does))
            for name, does in unary.items()
        }
        handlers["Follow"] = grpc.unary_stream_rpc_method_handler(self._stream)
        return handlers

    async def stop(self, grace: float | None = None) -> None:
        """Ends at once, or lets calls in flight end for `grace` seconds."""
        if self._server is not None:
            await self._server.stop(grace)

    def _counted(
        self, name: str, does: Callable[[bytes, Any], Awaitable[bytes]]
    ) -> Callable[[bytes, Any], Awaitable[bytes]]:
        async def handler(request: bytes, context: Any) -> bytes:
            self.seen[name] += 1
            self.arrived.set()
            return await does(request, context)

        return handler

    async def _echo(self, request: bytes, context: Any) -> bytes:
        self.metadata = dict(context.invocation_metadata())
        caller = self.metadata.get("x-forwarded-client-cert", "")
        return await self.answer(request, caller, context)

    async def answer(self, request: bytes, caller: str, context: Any) -> bytes:
        """What Echo and its like answer."""
        return f"{self.region} {caller}".encode()

    async def _fail(self, request: bytes, context: Any) -> bytes:
        named = dict(context.invocation_metadata())["status"]
        await context.abort(grpc.StatusCode[named], "as asked")
        return b""

    async def _homed(self, request: bytes, context: Any) -> bytes:
        if self.region != "us":
            await abort(
                context, FailedPrecondition("ask us", reason="NOT_HOME", metadata={"home": "us"})
            )
        return b"us"

    async def _hold(self, request: bytes, context: Any) -> bytes:
        await asyncio.Event().wait()
        return b""

    async def _stream(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        while True:
            yield self.region.encode()
            await asyncio.sleep(0.05)


class SmallMesh:
    """Two regions (`eu`, `us`) with the WAN between them; start what a test needs."""

    def __init__(
        self,
        state: Path,
        run: Path,
        ports: list[int],
        *,
        contract: Contract = CONTRACT,
        workloads: Sequence[str] = WORKLOADS,
        access: str = "",
        app: type[App] = App,
    ) -> None:
        self.state = state
        self._app = app
        self.run = run
        self.contract = contract
        self.topology = _topology(state, ports, workloads, access)
        now = utc_now()
        self.root = authority.make_root(DOMAIN, now)
        self.issuers = {
            region: authority.make_region_issuer(self.root, DOMAIN, region, now)
            for region in self.topology.region_names
        }
        self.wan = Wan(self.topology)
        # Where sidecars that start from now on discover what they do; None: in a file of theirs.
        self.control: ControlPlane | None = None
        self.apps: dict[str, App] = {}
        self.sidecars: dict[tuple[str, str], Sidecar] = {}
        self._channels: list[grpc.aio.Channel] = []

    def place(self, region: str, workload: str) -> Place:
        """Where an instance lives."""
        return Place(
            region,
            workload,
            self.topology.path,
            self.run / region / workload,
            self.state / region / workload,
        )

    def credentials(self, identity: Identity, region: str = "eu") -> Credentials:
        """A fresh certificate from a region's authority; devices enrolled at `ENROLLED_MS`."""
        key = keys.make_key()
        hosts = ["localhost", "127.0.0.1"] if identity.path.endswith(f"/{EDGE}") else []
        request = keys.signing_request(key)
        enrolled_ms = ENROLLED_MS if isinstance(identity, DeviceId) else None
        leaf = authority.sign(
            self.issuers[region], request, identity, utc_now(), hosts, enrolled_ms
        )
        return Credentials(
            identity.uri, leaf.chain_pem, keys.key_pem(key), leaf.trust_pem, leaf.not_after
        )

    def held(self, identity: Identity, region: str = "eu") -> Held:
        """A fresh identity as a folder holds it."""
        made, now = self.credentials(identity, region), utc_now()
        return Held(identity.uri, now, made.not_after, made.chain_pem, made.key_pem, made.trust_pem)

    async def start(self, *instances: tuple[str, str]) -> None:
        """Starts sidecars, with an app behind each beta; more of them when called again."""
        if not self.sidecars:
            await self.wan.start()
        for region, workload in instances:
            place = self.place(region, workload)
            place.run.mkdir(parents=True, exist_ok=True)
            if workload == "beta":
                self.apps[region] = self._app(region, place.app_socket)
                await self.apps[region].start()
            self.credentials(WorkloadId(DOMAIN, region, workload), region).write(place.identity)
            sidecar = Sidecar(self.contract, self.topology, place, control=self.control)
            self.sidecars[region, workload] = sidecar
            await sidecar.start()

    async def close(self) -> None:
        """Ends everything."""
        for channel in self._channels:
            await channel.close()
        for sidecar in self.sidecars.values():
            await sidecar.kill()
        for app in self.apps.values():
            await app.stop()
        await self.wan.close()

    def egress(
        self, region: str, workload: str, authority_: str = "beta", *, homes: bool = False
    ) -> grpc.aio.Channel:
        """What an application dials: its own sidecar; `homes` if the client looks for homes."""
        channel = grpc.aio.insecure_channel(
            f"unix:{self.place(region, workload).egress_socket}",
            options=[
                ("grpc.default_authority", authority_),
                ("grpc.enable_retries", 0),
                ("grpc.use_local_subchannel_pool", 1),
            ],
            interceptors=[HomeCalls()] if homes else [],
        )
        self._channels.append(channel)
        return channel

    def direct(
        self,
        address: topologies.Address,
        identity: Identity | None,
        name: str,
        held: Credentials | None = None,
    ) -> grpc.aio.Channel:
        """A client of its own at some listener, with or without a certificate: a fresh one, or
        `held`."""
        if held is None and identity is not None:
            held = self.credentials(identity)
        channel = grpc.aio.secure_channel(
            str(address),
            grpc.ssl_channel_credentials(
                authority.pem(self.root.certificate, *self.root.others),
                held.key_pem if held else None,
                held.chain_pem if held else None,
            ),
            options=[
                ("grpc.ssl_target_name_override", name),
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.enable_retries", 0),
            ],
        )
        self._channels.append(channel)
        return channel

    def through_edge(self, region: str, identity: OperatorId | DeviceId) -> grpc.aio.Channel:
        """An operator's or a device's way in."""
        return self.direct(
            self.topology.edge(region), identity, f"{EDGE}.{region}.{self.topology.trust_domain}"
        )


async def call(
    channel: grpc.aio.Channel,
    method: str,
    metadata: Mapping[str, str] | None = None,
    within: float = 10.0,
) -> str:
    """One unary call to the test service; the answer as text."""
    invoke = channel.unary_unary(path(method))
    answer: bytes = await invoke(b"", timeout=within, metadata=tuple((metadata or {}).items()))
    return answer.decode()


async def status_of(awaitable: Awaitable[Any]) -> tuple[grpc.StatusCode, str]:
    """How a call failed; OK if it did not."""
    try:
        await awaitable
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details() or ""
    return grpc.StatusCode.OK, ""


def _topology(state: Path, ports: list[int], workloads: Sequence[str], access: str) -> Topology:
    file = state / "mesh.yaml"
    file.write_text(
        f"""
version: 1
trust_domain: {DOMAIN}
regions:
  - {{name: eu, host: 127.0.0.1, base_port: {ports[0]}}}
  - {{name: us, host: 127.0.0.1, base_port: {ports[1]}}}
workloads: [{", ".join(workloads)}]
media: {{root: media, origin: "127.0.0.1:{ports[0] + 99}"}}
{access}
"""
    )
    return topologies.load(file)
