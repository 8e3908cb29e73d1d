"""One instance of a workload: its process and its sidecar; or a region's edge, a sidecar alone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import grpc
from grpc_health.v1 import health_pb2

from mesh.agent import AgentError, EnrolmentRefused, Sidecar, Status
from mesh.agent import State as SidecarState
from mesh.contracts.exceptions import CONTROL
from mesh.contracts.model import Contract
from mesh.envoy import ControlPlane
from mesh.envoy.bootstrap import control_plane_of
from mesh.local.child import (
    FIRST_BACKOFF,
    LAST_BACKOFF,
    Child,
    Command,
    Death,
    python,
    tail,
)
from mesh.local.errors import StartFailed
from mesh.local.gather import first_error
from mesh.local.layout import private_folder
from mesh.local.progress import Progress, Stage, Watcher
from mesh.local.record import ProcessRecord
from mesh.place import EDGE, PLATFORM, Place
from mesh.topology import Topology

HEALTHY_WITHIN = 60.0
"""Seconds that a workload may take to become healthy: a slow machine starts them all at once."""

_TOKENS = 3
"""Join tokens that a sidecar may try beyond its first."""

_HOPELESS = 3
"""Deaths in a row after which a start is given up."""


class Instance:
    """Keeps one workload and its sidecar running in one region."""

    def __init__(
        self,
        contract: Contract,
        topology: Topology,
        place: Place,
        watch: Watcher,
        changed: Callable[[], None],
        fresh_token: Callable[[str], Awaitable[str | None]],
    ) -> None:
        """`fresh_token` makes a join token for an instance that has no usable identity."""
        self.place = place
        self.name = f"{place.region}/{place.instance}"
        self.healthy = False
        self._contract = contract
        self._topology = topology
        self._watch = watch
        self._changed = changed
        self._fresh_token = fresh_token
        self._sidecar: Sidecar | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._sidecar_deaths = 0
        self._process: Child | None = None
        if place.workload != EDGE:
            command = Command(
                self.name,
                _command(topology, place),
                place.logs / "service.log",
                place.environment(),
            )
            self._process = Child(command, self._died, self._changed)

    @property
    def running(self) -> bool:
        """Whether it is being kept running."""
        return self._keeper is not None

    async def start(self, join_token: str | None, configured: asyncio.Event | None = None) -> None:
        """Starts both; returns once both are healthy. Raises `StartFailed`.

        The sidecar waits until `configured` is set: until there is a control plane to ask.
        """
        self._tell(Stage.STARTING)
        for folder in (self.place.run, self.place.data, self.place.logs):
            private_folder(folder)
        # The sidecar can enrol while the process still imports; both are needed to be healthy.
        async with first_error() as tasks:
            if self._process is not None:
                tasks.create_task(self._start_process(self._process))
            tasks.create_task(self._start_sidecar(join_token, configured))
        self.healthy = True
        self._tell(Stage.READY)

    async def stop_process(self, grace: float) -> None:
        """Ends the process, and the sidecar no more than its restarts."""
        self.healthy = False
        if self._process is not None and not await self._process.stop(grace):
            self._watch(Progress(self.name, Stage.NOTE, f"had to be killed after {grace:.0f} s"))

    async def stop_sidecar(self) -> None:
        """Ends the sidecar and removes the sockets."""
        await self._let_sidecar_go()
        if self._sidecar is not None:
            await self._sidecar.stop(drain=False)
            self._sidecar = None
        self._remove_sockets()
        self._tell(Stage.STOPPED)

    async def kill(self) -> None:
        """Ends both as a power cut would; they stay down."""
        self.healthy = False
        await self._let_sidecar_go()
        await asyncio.gather(
            *([self._sidecar.kill()] if self._sidecar is not None else []),
            *([self._process.kill()] if self._process is not None else []),
        )
        self._sidecar = None
        self._tell(Stage.STOPPED, "killed")

    async def restart(self, grace: float) -> None:
        """Starts the process again without a lost call; returns once it is healthy.

        Calls that may go to another region go there meanwhile, the others wait in the sidecar.
        Raises `StartFailed`.
        """
        if self._process is None or self._sidecar is None:
            raise StartFailed(f"{self.name} has no process that runs")
        self._tell(Stage.STARTING)
        await self._sidecar.pause()
        await self.stop_process(grace)
        await self._start_process(self._process)
        await self._sidecar.resume()
        self.healthy = True
        self._tell(Stage.READY)

    async def restart_sidecar(self) -> None:
        """Has a new Envoy take over from the sidecar's, without a lost call. Raises `StartFailed`.

        The old one goes on if the new one cannot start.
        """
        if self._sidecar is None:
            raise StartFailed(f"{self.name} has no sidecar that runs")
        await self._let_sidecar_go()
        try:
            await self._sidecar.restart(ready_within=HEALTHY_WITHIN)
        except AgentError as error:
            raise StartFailed(f"the sidecar of {self.name}: {error}") from error
        finally:
            self._keep_going()

    async def retire(self, grace: float) -> None:
        """Ends both in order, after those who may go to another region have gone there."""
        if self._sidecar is not None:
            await self._sidecar.pause()
        await self.stop_process(grace)
        await self._let_sidecar_go()
        if self._sidecar is not None:
            await self._sidecar.stop()
            self._sidecar = None
        self._remove_sockets()
        self._tell(Stage.STOPPED)

    def crash(self) -> int | None:
        """Kills the process, as an accident: it is started again. Returns its pid."""
        return None if self._process is None else self._process.crash()

    def records(self) -> Iterator[ProcessRecord]:
        """The processes, for `up.json`."""
        region = self.place.region
        if self._process is not None:
            log = str(self._process.command.log)
            deaths = self._process.deaths
            yield ProcessRecord(self.name, "workload", region, self._process.pid, log, deaths)
        pid = self._sidecar.pid if self._sidecar is not None else None
        log = str(self.place.logs / "envoy.log")
        name = self.name if self.place.workload == EDGE else f"{self.name}/sidecar"
        yield ProcessRecord(name, "sidecar", region, pid, log, self._sidecar_deaths)

    async def _start_process(self, process: Child) -> None:
        await process.start()
        self._changed()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + HEALTHY_WITHIN
        # `wait_for_ready` is of no use here: gRPC backs off a second after each missing socket.
        while not await serving(self.place):
            death = process.last_death
            if death is not None and death.deaths >= _HOPELESS:
                raise StartFailed(_explain(death, process))
            if loop.time() > deadline:
                lines = "\n".join(f"    {line}" for line in tail(process.command.log))
                raise StartFailed(
                    f"{self.name} was not healthy within {HEALTHY_WITHIN:.0f} s; the end of "
                    f"{process.command.log}:\n{lines}"
                )
            await asyncio.sleep(0.1)

    async def _start_sidecar(
        self, join_token: str | None, configured: asyncio.Event | None = None
    ) -> None:
        if configured is not None:
            await configured.wait()
        self._sidecar = self._new_sidecar()
        try:
            await self._enrol_and_start(self._sidecar, join_token)
        except AgentError as error:
            raise StartFailed(f"the sidecar of {self.name}: {error}") from error
        self._keep_going()

    def _keep_going(self) -> None:
        self._keeper = asyncio.create_task(self._keep_sidecar(), name=f"keep {self.name}'s sidecar")
        self._changed()

    async def _enrol_and_start(self, sidecar: Sidecar, join_token: str | None) -> None:
        """Starts a sidecar, with another token if one is refused.

        A token is its first user's alone, and on a slow machine that may be an earlier process.
        """
        for _ in range(_TOKENS):
            try:
                return await sidecar.start(join_token, ready_within=HEALTHY_WITHIN)
            except EnrolmentRefused:
                join_token = await self._fresh_token(self.place.instance)
        return await sidecar.start(join_token, ready_within=HEALTHY_WITHIN)

    def _new_sidecar(self) -> Sidecar:
        return Sidecar(
            self._contract,
            self._topology,
            self.place,
            control=control_plane(self._topology, self.place),
            on_change=self._sidecar_changed,
        )

    async def _keep_sidecar(self) -> None:
        loop = asyncio.get_running_loop()
        while self._sidecar is not None:
            began = loop.time()
            try:
                await self._sidecar.wait()
                if self._sidecar.status.state is not SidecarState.FAILED:
                    return
            except AgentError as error:
                self._watch(Progress(f"{self.name}/sidecar", Stage.DIED, str(error)))
            steady = loop.time() - began > 2 * LAST_BACKOFF
            self._sidecar_deaths = 1 if steady else self._sidecar_deaths + 1
            await asyncio.sleep(min(FIRST_BACKOFF * 2 ** (self._sidecar_deaths - 1), LAST_BACKOFF))
            self._sidecar = self._new_sidecar()
            try:
                await self._enrol_and_start(self._sidecar, None)
            except AgentError as error:
                self._watch(Progress(f"{self.name}/sidecar", Stage.DIED, str(error)))
            self._changed()

    async def _let_sidecar_go(self) -> None:
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)

    def _sidecar_changed(self, status: Status) -> None:
        if status.problem and status.state is SidecarState.READY:
            self._watch(Progress(f"{self.name}/sidecar", Stage.NOTE, status.problem))
        self._changed()

    def _died(self, death: Death) -> None:
        self._watch(Progress(self.name, Stage.DIED, describe(death)))
        self._changed()

    def _remove_sockets(self) -> None:
        for socket in self.place.run.glob("*.sock"):
            socket.unlink(missing_ok=True)

    def _tell(self, stage: Stage, detail: str = "") -> None:
        self._watch(Progress(self.name, stage, detail))
        self._changed()


def _command(topology: Topology, place: Place) -> tuple[str, ...]:
    version = topology.traffic.version(place.workload, place.region, place.version)
    if version is not None and version.command:
        program, *arguments = version.command
        # A path is taken from where mesh.yaml is, a name from PATH.
        found = str(topology.path.parent / program) if "/" in program else program
        return (found, *arguments)
    package = "mesh" if place.workload in PLATFORM else "services"
    return python(f"{package}.{place.workload}.main")


def control_plane(topology: Topology, place: Place) -> ControlPlane | None:
    """Where an instance's sidecar discovers its configuration; None: it starts from a file."""
    if place.workload in PLATFORM or CONTROL not in topology.workloads:
        return None
    return control_plane_of(topology, place.region)


def describe(death: Death) -> str:
    """One sentence about a death that is followed by a restart."""
    again = "" if death.deaths == 1 else f", {death.deaths} times in a row"
    why = f": {death.last_words}" if death.last_words else ""
    return f"ended with {death.cause}{again}{why}; starting it again (its log: {death.log})"


async def serving(place: Place, within: float = 1.0) -> bool:
    """Whether the workload behind `place` says that it is healthy (grpc.health.v1)."""
    if not place.app_socket.exists():
        return False
    async with grpc.aio.insecure_channel(
        f"unix:{place.app_socket}", options=[("grpc.use_local_subchannel_pool", 1)]
    ) as channel:
        try:
            check = channel.unary_unary(
                "/grpc.health.v1.Health/Check",
                request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
                response_deserializer=health_pb2.HealthCheckResponse.FromString,
            )
            answer = await check(health_pb2.HealthCheckRequest(), timeout=within)
        except grpc.aio.AioRpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def _explain(death: Death, process: Child) -> str:
    lines = "\n".join(f"    {line}" for line in death.tail)
    return (
        f"{death.name} does not start: it ended {death.deaths} times in a row, at last with "
        f"{death.cause}; the end of {process.command.log}:\n{lines}"
    )
