"""One sidecar's life, from key to drain."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path

import grpc

from mesh import envoy
from mesh.agent import admin, hot_restart
from mesh.agent.errors import (
    ConfigurationRefused,
    EnrolmentRefused,
    RenewalFailed,
    SidecarNotReady,
)
from mesh.agent.hot_restart import HotRestart
from mesh.agent.pages import turn_pages
from mesh.agent.process import DRAIN_SECONDS, EnvoyProcess
from mesh.agent.reporter import Reporter
from mesh.agent.vouching import Vouching
from mesh.contracts.exceptions import CONTROL
from mesh.contracts.model import Contract
from mesh.envoy import hold
from mesh.envoy.parts import COMPILING
from mesh.identity import authority, enrolment, folder, keys, tokens
from mesh.identity.errors import AuthorityUnreachable, IdentityError, IdentityFolderError
from mesh.identity.spiffe import WorkloadId
from mesh.place import EDGE, Place
from mesh.topology import Topology

_USABLE = timedelta(seconds=30)
"""An identity with less than this left is as good as none."""
_POLL = 0.05
_LOOK = 1.0
_FIRST_BACKOFF = 1.0
_LAST_BACKOFF = 30.0
_LONGEST_SLEEP = 30.0
_STOP_SECONDS = 5.0
_ON_ITS_WAY = 0.25
CLOSED_WITHIN = DRAIN_SECONDS + 0.5
LEFT_WITHIN = 4.0
"""Seconds after which each caller has noticed that health checks fail."""
# Rotation comes this much of a half-life early at most, so that a mesh that started at once does
# not renew at once.
_JITTER = 0.1


def utc_now() -> datetime:
    """The host's time, in UTC."""
    return datetime.fromtimestamp(time.time_ns() / 1e9, UTC)


class State(Enum):
    """Where a sidecar is in its life."""

    NEW = "new"
    ENROLLING = "enrolling"
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True)
class Status:
    """How a sidecar stands; `problem` is one sentence, or empty."""

    region: str
    workload: str
    state: State
    spiffe_id: str = ""
    not_after: datetime | None = None
    rotations: int = 0
    problem: str = ""


class Sidecar:
    """The Envoy beside one workload (`place.workload`), or a region's edge.

    With a `control` plane it discovers its configuration there, and is ready once it has it;
    without one it starts from all that the contract says now.

    `on_change` is called in the event loop with each new `Status`: becoming ready, rotating,
    failing to renew (it goes on trying), dying.
    """

    def __init__(
        self,
        contract: Contract,
        topology: Topology,
        place: Place,
        *,
        control: envoy.ControlPlane | None = None,
        on_change: Callable[[Status], None] | None = None,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._contract = contract
        self._topology = topology
        self._place = place
        self._control = control
        self._on_change = on_change
        self._now = now
        self._identity = WorkloadId(topology.trust_domain, place.region, place.workload)
        self._status = Status(place.region, place.workload, State.NEW)
        self._process: EnvoyProcess | None = None
        # The Envoy that another has taken over from, until it has ended.
        self._former: EnvoyProcess | None = None
        self._succession = HotRestart(place.run, contract)
        self._tasks: tuple[asyncio.Task[None], ...] = ()
        self._given = ""
        self._rotating = asyncio.Lock()
        self._vouching = (
            Vouching(place.app_socket, place.identity, now) if place.workload == EDGE else None
        )

    @property
    def status(self) -> Status:
        """How it stands now."""
        return self._status

    @property
    def pid(self) -> int | None:
        """Envoy's process id while it runs."""
        return None if self._process is None or self._process.exited else self._process.pid

    async def start(self, join_token: str | None = None, *, ready_within: float = 20.0) -> None:
        """Enrols if the identity folder holds no identity that is still valid, then runs Envoy.

        Returns once Envoy is ready. `join_token` may be None for the authority's own sidecar
        (`mesh.authority.prepare` wrote its identity) and wherever a valid identity is at hand.
        Raises `EnrolmentRefused`, `ConfigurationRefused`, `PortTaken`, `SidecarDied` or
        `SidecarNotReady`; nothing is left running then. Enrolment waits for an authority that is
        not up yet. `ready_within` bounds the whole, in seconds.
        """
        if self.pid is not None:
            return
        deadline = asyncio.get_running_loop().time() + ready_within
        try:
            await self._enrol(join_token, deadline)
            self._change(state=State.STARTING, problem="")
            bootstrap = await asyncio.to_thread(self._configure)
            if self._vouching is not None:
                await self._vouching.start()
            self._succession.clear()
            self._process = await self._launch(bootstrap)
            await self._until_ready(self._process, deadline, ready_within)
            self._succession.took_over()
        except BaseException as error:
            self._change(state=State.FAILED, problem=str(error))
            await self.kill()
            raise
        name = f"{self._place.region}/{self._place.workload}"
        calls = self._place.logs / envoy.ACCESS_LOG
        self._tasks = (
            asyncio.create_task(self._follow_identity(), name=f"identity {name}"),
            asyncio.create_task(turn_pages(calls, lambda: self._process), name=f"log {name}"),
        )
        if enrolment.AUTHORITY in self._topology.workloads:
            self._tasks += (asyncio.create_task(self._keep_fresh(), name=f"rotate {name}"),)
        if CONTROL in self._topology.workloads:
            reporter = Reporter(self._contract, self._place, self._certificate)
            self._tasks += (asyncio.create_task(reporter.run(), name=f"report {name}"),)
        self._change(state=State.READY, problem="")

    async def wait(self) -> None:
        """Returns when the sidecar was stopped; raises `SidecarDied` if Envoy ended by itself."""
        while (process := self._process) is not None:
            await process.wait()
            if self._process is process:
                break
        else:
            return
        if self._status.state in (State.DRAINING, State.STOPPED):
            return
        await self._end_tasks()
        await self._end_former(0)
        error = process.failure()
        self._change(state=State.FAILED, problem=str(error))
        raise error

    async def rotate(self) -> None:
        """Renews the certificate now, through the sidecar's own egress.

        Raises `RenewalFailed` if no authority signs one; the present certificate stays then.
        """
        async with self._rotating, self._egress() as channel:
            try:
                fresh = await enrolment.renew(channel)
            except IdentityError as error:
                raise RenewalFailed(
                    f"no fresh certificate for {self._identity.uri}: {error}"
                ) from None
            if fresh.spiffe_id != self._identity.uri:
                raise RenewalFailed(
                    f"the authority signed {fresh.spiffe_id} for {self._identity.uri}"
                )
            fresh.write(self._place.identity)
            self._given = envoy.write_credentials(self._place)
        self._change(not_after=fresh.not_after, rotations=self._status.rotations + 1, problem="")

    async def pause(self, settle: float = LEFT_WITHIN) -> None:
        """Lets the application stop without a lost call, if it is told to within `hold.FOR`.

        Health checks fail, and those who may go to another region have done so after `settle`
        seconds; calls that arrive from then on are held back until the application is there again.
        """
        socket = self._place.admin_socket
        try:
            await admin.post(socket, "/healthcheck/fail")
            await asyncio.sleep(settle)
            if await admin.post(socket, f"/runtime_modify?{hold.KEY}=100") != 200:
                raise SidecarNotReady(f"{self._identity.uri}: its Envoy cannot hold calls back")
            await asyncio.sleep(_ON_ITS_WAY)
        except admin.AdminUnreachable:
            return  # nobody calls through an Envoy that is not there

    async def resume(self) -> None:
        """The application is there again: ends what `pause` began."""
        socket = self._place.admin_socket
        try:
            await admin.post(socket, f"/runtime_modify?{hold.KEY}=0")
            await admin.post(socket, "/healthcheck/ok")
        except admin.AdminUnreachable:
            return  # the next Envoy knows of no pause

    async def drain(self, settle: float = CLOSED_WITHIN, within: float = 5.0) -> None:
        """Fails health checks and ends listeners; they are closed after `settle` seconds.

        Then it waits until no call is in flight, `within` seconds at most: SIGTERM alone would lose
        those. Streams that are held are in flight.
        """
        self._change(state=State.DRAINING)
        socket = self._place.admin_socket
        try:
            await admin.post(socket, "/healthcheck/fail")
            await admin.post(socket, "/drain_listeners?graceful&skip_exit")
            await asyncio.sleep(settle)
            deadline = asyncio.get_running_loop().time() + within
            while asyncio.get_running_loop().time() < deadline:
                if not await admin.in_flight(socket):
                    return
                await asyncio.sleep(_POLL)
        except admin.AdminUnreachable:
            return  # it ended by itself, or hangs: there is nobody to drain

    async def stop(self, *, drain: bool = True) -> None:
        """Drains, then ends Envoy and what tends it. May be called twice, and in any state."""
        await self._end_tasks()
        process = self._process
        if process is not None and not process.exited:
            if drain:
                await self.drain()
            self._change(state=State.STOPPED)
            await process.stop(_STOP_SECONDS)
        self._process = None
        await self._end_former(_STOP_SECONDS)
        self._succession.clear()
        await self._end_vouching()
        self._change(state=State.STOPPED)

    async def kill(self) -> None:
        """Ends Envoy as a power cut would: for faults on purpose."""
        await self._end_tasks()
        process, self._process = self._process, None
        if process is not None:
            await process.kill()
        await self._end_former(0)
        self._succession.clear()
        await self._end_vouching()
        if self._status.state is not State.FAILED:
            self._change(state=State.STOPPED)

    async def restart(self, *, ready_within: float = 20.0) -> None:
        """Has a new Envoy take over; no call is refused or lost. Returns once it serves.

        The old one may finish what it has begun, within `HotRestart.within` seconds: `settled`
        waits for that, and so does the next restart. Streams that are still held then end. An Envoy
        that speaks another version of this, after an upgrade, is started once the old one has
        drained. Raises as `start` does; the old one goes on then, without its admin interface.
        """
        await self.settled()
        if not await self._can_take_over():
            await self.pause()
            await self.stop()
        if (old := self._process) is None or old.exited:
            await self.start(ready_within=ready_within)
            return
        deadline = asyncio.get_running_loop().time() + ready_within
        new = await self._launch(await asyncio.to_thread(self._configure))
        try:
            await self._until_ready(new, deadline, ready_within)
        except BaseException as error:
            await new.kill()
            self._change(problem=f"the Envoy before goes on, as another cannot start: {error}")
            raise
        self._succession.took_over()
        self._process, self._former = new, old
        self._tasks += (asyncio.create_task(self.settled(), name=f"see off Envoy {old.pid}"),)
        self._change(problem="")

    async def settled(self) -> None:
        """Returns once no Envoy is left but the last one."""
        former = self._former
        if former is None:
            return
        try:
            async with asyncio.timeout(self._succession.within + _STOP_SECONDS):
                await former.wait()
        except TimeoutError:  # nobody told it to end, so its successor has ended meanwhile
            await former.stop(_STOP_SECONDS)
        if self._former is former:
            self._former = None

    async def _can_take_over(self) -> bool:
        try:
            running = await admin.get(self._place.admin_socket, "/hot_restart_version")
        except admin.AdminUnreachable:
            return True  # it does not run, or an attempt before this one has failed
        return running.decode().strip() == await asyncio.to_thread(hot_restart.version)

    async def _launch(self, bootstrap: Path) -> EnvoyProcess:
        return await EnvoyProcess.start(
            bootstrap,
            self._place.logs / "envoy.log",
            self._place.run,
            self._succession.options(),
        )

    async def _end_former(self, grace: float) -> None:
        former, self._former = self._former, None
        if former is not None:
            await former.stop(grace)

    async def _enrol(self, join_token: str | None, deadline: float) -> None:
        held = self._held(join_token)
        if held is None:
            self._change(state=State.ENROLLING, problem="")
            if join_token is None:
                remedy = (
                    "there is no join token: `isthmus up` makes one"
                    if enrolment.AUTHORITY in self._topology.workloads
                    else "this mesh has no authority: have its issuer put one there"
                )
                raise EnrolmentRefused(
                    f"{self._place.identity} holds no valid identity of {self._identity.uri}, and "
                    f"{remedy}"
                )
            await self._redeem(join_token, deadline)
            held = folder.read(self._place.identity)
        self._change(spiffe_id=held.spiffe_id, not_after=held.not_after)

    def _held(self, join_token: str | None) -> folder.Held | None:
        """The identity at hand, if it may be used: valid, ours, and of the token's authority."""
        try:
            held = folder.read(self._place.identity)
            roots = authority.fingerprints(held.trust_pem)
            if join_token is not None and tokens.parse(join_token).root_hash not in roots:
                return None
        except IdentityFolderError:
            return None
        except IdentityError as error:
            raise EnrolmentRefused(str(error)) from None
        usable = held.spiffe_id == self._identity.uri and held.not_after - self._now() > _USABLE
        return held if usable else None

    async def _redeem(self, join_token: str, deadline: float) -> None:
        loop = asyncio.get_running_loop()
        address = self._topology.enrolment(self._place.region)
        key = keys.make_key()
        while True:
            try:
                fresh = await enrolment.enrol(address.host, address.port, join_token, key)
            except AuthorityUnreachable as error:
                if loop.time() >= deadline:
                    raise EnrolmentRefused(
                        f"{error}. The authority's sidecar and process must run first"
                    ) from None
                await asyncio.sleep(0.1)
                continue
            except IdentityError as error:
                raise EnrolmentRefused(str(error)) from None
            if fresh.spiffe_id != self._identity.uri:
                raise EnrolmentRefused(
                    f"the join token is {fresh.spiffe_id}'s, not {self._identity.uri}'s"
                )
            fresh.write(self._place.identity)
            return

    def _folder(self) -> Path | None:
        """Where Envoy runs: what is discovered has paths relative to it."""
        return None if self._control is None else self._place.run

    def _configure(self) -> Path:
        """Compiles, writes and validates."""
        place = self._place
        for needed in (place.run, place.logs):
            needed.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            with COMPILING:
                if self._control is None:
                    configuration = envoy.compile_for(self._contract, self._topology, place)
                else:
                    configuration = envoy.compile_discovering(place, self._control)
                    _link(place.run / envoy.STATE, place.state)
            bootstrap = configuration.write(envoy.folder(place))
            self._given = envoy.write_credentials(place)
            envoy.validate(bootstrap, self._folder())
        except envoy.EnvoyConfigError as error:
            raise ConfigurationRefused(str(error)) from None
        return bootstrap

    async def _until_ready(
        self, process: EnvoyProcess, deadline: float, ready_within: float
    ) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if process.exited:
                raise process.failure()
            try:
                if await admin.ready(self._place.admin_socket, self._succession.next_epoch):
                    return
            except admin.AdminUnreachable:
                pass  # not listening yet
            if loop.time() >= deadline:
                asked = self._control
                cause = f", or no control plane answers at {asked.address}" if asked else ""
                raise SidecarNotReady(
                    f"Envoy was not ready within {ready_within:g} s{cause}: see "
                    f"{self._place.logs / 'envoy.log'}"
                )
            await asyncio.sleep(_POLL)

    async def _keep_fresh(self) -> None:
        while True:
            held = folder.read(self._place.identity)
            early = (held.half_life - held.not_before) * (_JITTER * random.random())  # noqa: S311  spreads load, guards nothing
            await self._sleep_until(held.half_life - early)
            backoff = _FIRST_BACKOFF
            while True:
                try:
                    await self.rotate()
                    break
                except RenewalFailed as error:
                    self._change(problem=f"{error}; trying again")
                await asyncio.sleep(backoff * random.uniform(0.5, 1.0))  # noqa: S311  the same
                backoff = min(backoff * 2, _LAST_BACKOFF)

    async def _follow_identity(self) -> None:
        """Hands on what others put into the identity folder, as they do who issue by themselves."""
        while True:
            await asyncio.sleep(_LOOK)
            if folder.generation(self._place.identity) in ("", self._given):
                continue
            try:
                self._given = envoy.write_credentials(self._place)
                not_after = folder.read(self._place.identity).not_after
            except (IdentityFolderError, OSError) as error:
                self._change(problem=str(error))
            else:
                self._change(not_after=not_after, problem="")

    async def _sleep_until(self, moment: datetime) -> None:
        # In pieces: a laptop that slept wakes up with another time.
        while (left := (moment - self._now()).total_seconds()) > 0:  # noqa: ASYNC110  waits for a time
            await asyncio.sleep(min(left, _LONGEST_SLEEP))

    def _egress(self) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(
            f"unix:{self._place.egress_socket}",
            options=[
                ("grpc.default_authority", enrolment.AUTHORITY),
                ("grpc.use_local_subchannel_pool", 1),
            ],
        )

    def _certificate(self) -> tuple[datetime | None, str]:
        return self._status.not_after, self._status.problem

    async def _end_tasks(self) -> None:
        tasks, self._tasks = self._tasks, ()
        others = [task for task in tasks if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _end_vouching(self) -> None:
        if self._vouching is not None:
            await self._vouching.stop()

    def _change(self, **changes: object) -> None:
        status = replace(self._status, **changes)  # type: ignore[arg-type]  # names are Status's own
        if status != self._status:
            self._status = status
            if self._on_change is not None:
                self._on_change(status)


def _link(link: Path, target: Path) -> None:
    """Makes or renews a symbolic link."""
    if not (link.is_symlink() and link.readlink() == target.absolute()):
        link.unlink(missing_ok=True)
        link.symlink_to(target.absolute())
