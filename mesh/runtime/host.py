"""Hosts one workload: its services, its replication group, and its way to other workloads."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import grpc
import structlog
from google.protobuf.message import Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from isthmus.mesh.v1 import status_pb2_grpc
from isthmus.replication.v1 import conflict_pb2_grpc, feed_pb2_grpc, link_pb2_grpc, members_pb2_grpc

from mesh.contracts import Contract, ContractError
from mesh.contracts import load as load_contract
from mesh.contracts.exceptions import CALLS
from mesh.identity.spiffe import WorkloadId
from mesh.place import Place, PlaceError
from mesh.replication import (
    FeedServicer,
    Group,
    Limits,
    LinkServicer,
    ReplicationError,
    WatchEvent,
    WorkloadSigning,
    follow_feed,
)
from mesh.runtime import collector, logs
from mesh.runtime.authorization import rules
from mesh.runtime.conflicts import ConflictsService
from mesh.runtime.context import caller
from mesh.runtime.end_principals import EndPrincipals, OnBehalf
from mesh.runtime.gate import Gate
from mesh.runtime.home_calls import HomeCalls
from mesh.runtime.members import MembersService
from mesh.runtime.reflection import add_reflection
from mesh.runtime.sessions import Sessions
from mesh.runtime.status import StatusService
from mesh.runtime.telemetry import Telemetry
from mesh.topology import Topology, TopologyError, load

S = TypeVar("S")

REQUEST_LIMIT = 4 * 1024 * 1024
"""What a method takes. Frames, which are larger than most, come as answers to who follows."""

ANSWER_LIMIT = 16 * 1024 * 1024
"""What a method may answer: the overview is one message, and what became visible together too."""

_DRAIN_SECONDS = 3.0
_ANSWERED_WITHIN = 2.0
_log = structlog.get_logger("isthmus.host")


class Host:
    """What a workload's `build` function gets to work with."""

    def __init__(
        self,
        place: Place,
        topology: Topology,
        contract: Contract,
        telemetry: Telemetry,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self.clock = clock
        """Nanoseconds since 1970."""
        self.place = place
        self.topology = topology
        self.contract = contract
        self._telemetry = telemetry
        self._group: Group | None = None
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._feeds: dict[str, grpc.aio.Channel] = {}
        self._tasks: dict[asyncio.Task[None], str] = {}
        self._failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._served: list[str] = []
        self._sessions = Sessions()
        self._gate = Gate(
            rules(contract, place.workload),
            place.workload,
            place.region,
            topology.trust_domain,
            self._sessions,
            EndPrincipals(place.identity, topology.trust_domain, clock),
        )
        self._server = grpc.aio.server(
            interceptors=[*telemetry.server_interceptors(), self._gate],
            options=[
                ("grpc.max_receive_message_length", REQUEST_LIMIT),
                ("grpc.max_send_message_length", ANSWER_LIMIT),
                ("grpc.so_reuseport", 0),
            ],
        )

    @property
    def region(self) -> str:
        """The region that this instance runs in."""
        return self.place.region

    @property
    def regions(self) -> tuple[str, ...]:
        """All regions, in failover order from this one."""
        return self.topology.failover_order(self.place.region)

    @property
    def actor(self) -> str:
        """The workload's own SPIFFE identity: the actor of what it writes by itself."""
        return (
            f"spiffe://{self.topology.trust_domain}/region/{self.region}"
            f"/workload/{self.place.workload}"
        )

    @property
    def group(self) -> Group:
        """The replication group that the workload owns. Raises RuntimeError if it owns none."""
        if self._group is None:
            raise RuntimeError(f"the contract gives {self.place.workload!r} no replication group")
        return self._group

    def add(self, register: Callable[[S, grpc.aio.Server], None], servicer: S, name: str) -> None:
        """Serves a service under its full name; raises ValueError if it is not this workload's.

        It is in the contract, or an exception to it (which reflection does not know).
        """
        workload = self.place.workload
        excepted = any(each.service == name and each.workload == workload for each in CALLS)
        if not excepted:
            if name not in {service.name for service in self.contract.served_by(workload)}:
                raise ValueError(f"the contract does not let {workload!r} serve {name}")
            self._served.append(name)
        register(servicer, self._server)

    def channel(self, workload: str, region: str | None = None) -> grpc.aio.Channel:
        """A channel to a workload, through the sidecar; `region` for PINNED methods."""
        authority = f"{workload}.{region}" if region else workload
        if authority not in self._channels:
            self._channels[authority] = self._dial(
                authority,
                [HomeCalls(), OnBehalf(self.clock), *self._telemetry.client_interceptors()],
            )
        return self._channels[authority]

    def _dial(self, authority: str, interceptors: Sequence[Any] = ()) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(
            f"unix:{self.place.egress_socket}",
            options=[
                ("grpc.default_authority", authority),
                ("grpc.max_receive_message_length", ANSWER_LIMIT),
                ("grpc.max_send_message_length", REQUEST_LIMIT),
                # Retries are the sidecar's, as the contract says.
                ("grpc.enable_retries", 0),
                # A sidecar that restarts is back within a second.
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.max_reconnect_backoff_ms", 1000),
                # One channel's connection says nothing about another's.
                ("grpc.use_local_subchannel_pool", 1),
            ],
            interceptors=list(interceptors),
        )

    def watch(
        self, workload: str, types: Iterable[type[Message]] = ()
    ) -> AsyncIterator[WatchEvent]:
        """A workload's entities in this region as they change; reconnects, with a new snapshot."""
        if workload not in self._feeds:
            # Long streams have no span, and grpc.aio never starts an intercepted one whose first
            # message is not there yet.
            self._feeds[workload] = self._dial(workload)
        return follow_feed(self._feeds[workload], tuple(types))

    def background(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Runs `work` until shutdown; if it ends or fails before, the process ends."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks[task] = name
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        name = self._tasks.pop(task)
        if task.cancelled() or self._failed.done():
            return
        error = task.exception()
        _log.error("background work ended", work=name, exc_info=error)
        self._failed.set_result(f"{name}: {error or 'ended'}")

    async def serve(self, build: Callable[[Host], Awaitable[None]], reflect_all: bool) -> int:
        """Runs until SIGTERM or a failure; returns the exit code."""
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.set)
        healthy = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(healthy, self._server)
        code = 1
        try:
            await self._open_group()
            status = StatusService(self.place, self.contract, self._group)
            self.add(
                status_pb2_grpc.add_StatusServiceServicer_to_server,
                status,
                "isthmus.mesh.v1.StatusService",
            )
            self._telemetry.observe(self.place, self._group)
            await build(self)
            collector.settle()
            names = [*self._served, "grpc.health.v1.Health"]
            reflected = [*self.contract.services, "grpc.health.v1.Health"] if reflect_all else names
            add_reflection(self._server, reflected)
            self._listen()
            await self._server.start()
            if self._group is not None:
                self._group.connect(lambda peer: self._dial(f"{self.place.workload}.{peer}"))
            # Only now: the sidecar's check finds nothing that is not ready.
            for name in ["", *names]:
                await healthy.set(name, health_pb2.HealthCheckResponse.SERVING)
            _log.info("serving", services=self._served)
            code = await self._until(stopping)
        finally:
            await healthy.enter_graceful_shutdown()
            await self._close()
        return code

    async def _open_group(self) -> None:
        name = self.contract.group_of(self.place.workload)
        if name is None:
            return
        self._group = await Group.open(
            self.contract,
            name,
            region=self.region,
            peers=[region for region in self.regions if region != self.region],
            folder=self.place.data,
            clock=self.clock,
            home=self.topology.members.home,
            limits=Limits(
                self.topology.members.silent_after * 1000, self.topology.members.held_bytes
            ),
            on_applied=self._telemetry.applied,
            signing=WorkloadSigning(
                name,
                WorkloadId(self.topology.trust_domain, self.region, self.place.workload),
                self.place.identity,
                self.clock,
            ),
        )
        self._sessions.open(self._group)
        self.add(
            link_pb2_grpc.add_LinkServiceServicer_to_server,
            # The contract lets the same workload of other regions call it, and nobody else.
            LinkServicer(self._group, peer_region=lambda _: caller().region or ""),
            "isthmus.replication.v1.LinkService",
        )
        self.add(
            feed_pb2_grpc.add_FeedServiceServicer_to_server,
            FeedServicer(self._group),
            "isthmus.replication.v1.FeedService",
        )
        self.add(
            members_pb2_grpc.add_MembersServiceServicer_to_server,
            MembersService(self._group),
            "isthmus.replication.v1.MembersService",
        )
        self.add(
            conflict_pb2_grpc.add_ConflictsServiceServicer_to_server,
            ConflictsService(self._group),
            "isthmus.replication.v1.ConflictsService",
        )

    def _listen(self) -> None:
        socket = self.place.app_socket
        socket.unlink(missing_ok=True)
        self._server.add_insecure_port(f"unix:{socket}")

    async def _until(self, stopping: asyncio.Event) -> int:
        waiting = asyncio.ensure_future(stopping.wait())
        both: list[asyncio.Future[Any]] = [waiting, self._failed]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        return 1 if self._failed.done() else 0

    async def _close(self) -> None:
        # No new call from here on; those that are in flight may need links and background work.
        stopping = asyncio.ensure_future(self._server.stop(_DRAIN_SECONDS))
        await self._gate.answered(_ANSWERED_WITHIN)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._group is not None:
            # The server waits for links and feeds, which never end by themselves.
            await self._group.leave()
        await stopping
        if self._group is not None:
            await self._group.close()
        for channel in (*self._channels.values(), *self._feeds.values()):
            await channel.close()


def run(
    workload: str, build: Callable[[Host], Awaitable[None]], *, reflect_all: bool = False
) -> None:
    """Runs a workload's process and exits with its code.

    `build` adds services to the host. With `reflect_all` the instance's reflection lists every
    service of the contract: an edge sends it the questions that name no workload.
    """
    os.umask(0o077)
    try:
        place = Place.from_environment()
        if place.workload != workload:
            raise PlaceError(f"this is {workload!r}, and ISTHMUS_WORKLOAD is {place.workload!r}")
        topology = load(Path(place.topology))
        contract = load_contract()
    except (PlaceError, TopologyError, ContractError) as error:
        print(f"{workload}: {error}", file=sys.stderr)
        sys.exit(2)
    logs.configure(place)
    sys.exit(asyncio.run(_serve(place, topology, contract, build, reflect_all)))


async def _serve(
    place: Place,
    topology: Topology,
    contract: Contract,
    build: Callable[[Host], Awaitable[None]],
    reflect_all: bool,
) -> int:
    try:
        with contextlib.closing(Telemetry(place, contract)) as telemetry:
            return await Host(place, topology, contract, telemetry).serve(build, reflect_all)
    except ReplicationError as error:
        _log.error("cannot open the replication group", error=str(error))
    except Exception:
        _log.exception("cannot serve")
    return 1
