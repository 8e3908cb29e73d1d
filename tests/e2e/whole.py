"""The project's whole contract behind real sidecars, with services that do as a test says.

Two regions and an edge. Every service is there three times: as it is; as `...Soon`, with all its
times a fifth; and as `...Few`, with a rate limit. Between sidecars, and between a sidecar and its
application, connections can be reset.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from mesh.contracts import load
from mesh.contracts.model import (
    EVERY_WORKLOAD,
    Contract,
    Locality,
    Method,
    RateLimit,
    Retry,
    Role,
    Service,
)
from mesh.envoy.routes import HOME_HEADER
from mesh.identity.spiffe import DeviceId, OperatorId
from mesh.place import EDGE, Place
from mesh.topology import Address, Topology
from mesh.traffic import Bounds, Traffic
from tests.e2e.breakable import Breakable
from tests.e2e.sidecars import DOMAIN, SmallMesh

REAL = load()
WORKLOADS = REAL.workloads()
REGIONS = ("eu", "us")
SOON, FEW = "Soon", "Few"
SCALE = 0.2
LIMIT = RateLimit(per_second=1, burst=2)
AGE = 1.0
"""Of streams that are to end soon, in seconds."""
_MARK = "x-of-the-test"
# Not even a caller who asks for retries gets more than the contract says.
_SENT = (
    (_MARK, "1"),
    ("x-envoy-retry-on", "5xx,reset,unavailable"),
    ("x-envoy-max-retries", "9"),
    ("x-envoy-upstream-rq-timeout-ms", "600000"),
)


def _scaled(seconds: float | None) -> float | None:
    return seconds and seconds * SCALE


def _soon(method: Method) -> Method:
    retry = method.retry and Retry(method.retry.attempts, method.retry.per_try * SCALE)
    age = AGE if method.stream_max_age else None
    return replace(method, timeout=_scaled(method.timeout), retry=retry, stream_max_age=age)


def _copy(service: Service, suffix: str, change: Callable[[Method], Method]) -> Service:
    name = service.name + suffix
    methods = tuple(replace(change(m), service=name, http=()) for m in service.methods)
    return replace(service, name=name, methods=methods)


def _contract() -> Contract:
    services = dict(REAL.services)
    for service in REAL.services.values():
        for suffix, change in (
            (SOON, _soon),
            (FEW, lambda method: replace(method, rate_limit=LIMIT)),
        ):
            made = _copy(service, suffix, change)
            services[made.name] = made
    return replace(REAL, services=services)


CONTRACT = _contract()


@dataclass(frozen=True)
class Way:
    """How a listed caller comes to a method of a workload in eu."""

    kind: str
    method: Method
    callee: str

    def __str__(self) -> str:
        return f"{self.method.path[1:]} {self.kind}"


def ways(suffix: str = "") -> list[Way]:
    """One way of each kind to each method; the services of every workload are asked at one."""
    return [
        Way(kind, method, callee)
        for name in REAL.services
        for method in CONTRACT.services[name + suffix].methods
        for callee in (_callee(CONTRACT.services[name + suffix]),)
        for kind in _kinds(method, callee)
    ]


def _callee(service: Service) -> str:
    if service.workload != EVERY_WORKLOAD:
        return service.workload
    return next(name for name in WORKLOADS if service in CONTRACT.served_by(name))


def _kinds(method: Method, callee: str) -> Iterator[str]:
    who = method.callers
    for role in sorted(who.roles, key=lambda role: role.value):
        yield f"as {role.value}"
    if who.any_workload or who.workloads:
        first = min(who.workloads or WORKLOADS, key=lambda name: (name == callee, name))
        yield f"from {first} in eu"
    if who.peers:
        yield f"from {callee} in us"


class App:
    """Every method of a workload: counts the calls of the test, then does what it is told."""

    def __init__(self, whole: Whole, place: Place) -> None:
        self.whole = whole
        self.place = place
        self.seen: Counter[str] = Counter()
        self._server: grpc.aio.Server | None = None

    @property
    def socket(self) -> Path:
        """Where it listens itself, behind what can break."""
        return self.place.run / "behind.sock"

    async def start(self) -> None:
        """Listens, healthy."""
        self.socket.unlink(missing_ok=True)
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        checked = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(checked, self._server)
        self._server.add_generic_rpc_handlers((_Anything(self._answer),))
        self._server.add_insecure_port(f"unix:{self.socket}")
        await self._server.start()
        await checked.set("", health_pb2.HealthCheckResponse.SERVING)

    async def stop(self) -> None:
        """Ends at once."""
        if self._server is not None:
            await self._server.stop(None)

    async def _answer(self, path: str, requests: Any, context: Any) -> AsyncIterator[bytes]:
        if _MARK not in dict(context.invocation_metadata()):
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "not of the test")
        await anext(requests)  # all that it shall react to has arrived
        self.seen[path] += 1
        async for answer in self.whole.behave(self, context):
            yield answer


class _Anything(grpc.GenericRpcHandler):
    def __init__(self, answer: Callable[[str, Any, Any], AsyncIterator[bytes]]) -> None:
        self._answer = answer

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        path = details.method
        if path.startswith("/grpc."):
            return None

        async def behavior(requests: Any, context: Any) -> AsyncIterator[bytes]:
            async for answer in self._answer(path, requests, context):
                yield answer

        return grpc.stream_stream_rpc_method_handler(behavior)


class _Proxied(Topology):
    """Sidecars listen elsewhere than they are dialled: between the two something can break."""

    def listening(self, place: Place) -> Address:
        address = self.inbound(place.region, place.workload)
        return Address(address.host, address.port + _BEHIND)


_BEHIND = 60
"""Beyond a region's inbound listeners, in the same block of ports."""

Behavior = Callable[[App, Any], AsyncIterator[bytes]]


async def silence(app: App, context: Any) -> AsyncIterator[bytes]:
    """Never answers."""
    await asyncio.Event().wait()
    yield b""


async def at_once(app: App, context: Any) -> AsyncIterator[bytes]:
    """Answers with one message, and ends."""
    yield b""


async def dripping(app: App, context: Any) -> AsyncIterator[bytes]:
    """Answers with message after message."""
    while True:
        yield b""
        await asyncio.sleep(0.05)


@dataclass
class Whole:
    """The mesh, its services, and how they behave just now."""

    mesh: SmallMesh
    behave: Behavior = silence
    apps: dict[tuple[str, str], App] = field(default_factory=dict)
    between: list[Breakable] = field(default_factory=list)
    behind: list[Breakable] = field(default_factory=list)

    @classmethod
    def of(cls, state: Path, run: Path, ports: list[int]) -> Whole:
        """Not started yet."""
        mesh = SmallMesh(state, run, ports, contract=CONTRACT, workloads=WORKLOADS)
        bounds = Bounds(failures=1000, retry_percent=100.0, retries=1000)
        known = {f: getattr(mesh.topology, f) for f in mesh.topology.__dataclass_fields__}
        mesh.topology = _Proxied(
            **known | {"traffic": Traffic(bounds=tuple((name, bounds) for name in WORKLOADS))}
        )
        return cls(mesh)

    async def start(self) -> None:
        """Starts everything, healthy."""
        topology = self.mesh.topology
        for region in REGIONS:
            for workload in WORKLOADS:
                place = self.mesh.place(region, workload)
                place.run.mkdir(parents=True)
                app = self.apps[region, workload] = App(self, place)
                await app.start()
                self.behind.append(await Breakable.unix(place.app_socket, app.socket))
                address = topology.inbound(region, workload)
                self.between.append(await Breakable.tcp(address, topology.listening(place)))
        first, *others = [(r, w) for r in REGIONS for w in WORKLOADS] + [("eu", EDGE)]
        await self.mesh.start(first)
        await asyncio.gather(*(self.mesh.start(each) for each in others))
        await self._until_reached()

    async def close(self) -> None:
        """Ends everything."""
        await self.mesh.close()
        for each in (*self.between, *self.behind):
            await each.close()
        for app in self.apps.values():
            await app.stop()

    def seen(self, way: Way) -> Counter[str]:
        """How often the services of each region saw its method."""
        path = way.method.path
        return Counter({region: self.apps[region, way.callee].seen[path] for region in REGIONS})

    def forget(self) -> None:
        """Counts from zero."""
        for app in self.apps.values():
            app.seen.clear()

    async def call(
        self, way: Way, *, within: float | None = None, home: str = ""
    ) -> tuple[str, str, int]:
        """One call with one message: its status, what it says, and how many answers came.

        Who streams goes on to listen, and holds its own side open. `home` is where the caller
        takes the home to be.
        """
        channel, metadata = self._channel(way)
        if home:
            metadata += ((HOME_HEADER, home),)

        sent = (*metadata, *_SENT)
        calling: Any
        if way.method.client_streaming:
            calling = channel.stream_stream(way.method.path)(timeout=within, metadata=sent)
        else:
            # With its message in it from the beginning: a write that fails as the call is refused
            # hides the refusal behind INTERNAL (github.com/grpc/grpc/issues/36066).
            calling = channel.unary_stream(way.method.path)(b"", timeout=within, metadata=sent)
        answers = 0
        try:
            if way.method.client_streaming:
                await calling.write(b"")
            while await calling.read() is not grpc.aio.EOF:
                answers += 1
            code, details = await calling.code(), await calling.details()
        except grpc.aio.AioRpcError as error:
            code, details = error.code(), error.details()
        return code.name, details or "", answers

    def _channel(self, way: Way) -> tuple[grpc.aio.Channel, tuple[tuple[str, str], ...]]:
        mesh, role = self.mesh, way.kind.removeprefix("as ")
        if role == Role.OPERATOR.value:
            made = self._once("operator", lambda: mesh.through_edge("eu", OperatorId(DOMAIN, "a")))
            return made, (("x-isthmus-workload", way.callee),)
        if role == Role.DEVICE.value:
            return self._once("device", lambda: mesh.through_edge("eu", DeviceId(DOMAIN, "d"))), ()
        if role == Role.UNENROLLED.value:
            address = mesh.topology.enrolment("eu")
            name = f"{way.callee}.eu.{DOMAIN}"
            return self._once("anybody", lambda: mesh.direct(address, None, name)), ()
        _, caller, _, region = way.kind.split()
        pinned = way.method.locality is Locality.PINNED
        authority = f"{way.callee}.eu" if pinned else way.callee
        made = self._once(
            f"{region} {caller} {authority}", lambda: mesh.egress(region, caller, authority)
        )
        return made, ()

    def _once(self, name: str, make: Callable[[], grpc.aio.Channel]) -> grpc.aio.Channel:
        if name not in self._channels:
            self._channels[name] = make()
        return self._channels[name]

    _channels: dict[str, grpc.aio.Channel] = field(default_factory=dict)

    async def _until_reached(self) -> None:
        """Until each way leads to its service in eu."""
        self.behave = at_once
        left = ways()
        async with asyncio.timeout(40):
            while left:
                await asyncio.gather(*(self.call(way, within=5) for way in left))
                left = [way for way in left if not self.seen(way)["eu"]]
        self.behave = silence
        self.forget()
