"""Carries out deploys in the region that decides: judges, stages, watches, confirms or takes back.

What it has decided is in the group before anybody acts on it, so the history says what happened,
and the region that takes over the home finds it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import structlog
from isthmus.mesh.v1 import rollout_pb2 as pb
from isthmus.mesh.v1 import sidecars_pb2 as sidecars

from mesh.control import history
from mesh.control.follower import MESH
from mesh.control.judge import Judged, Refused, judge
from mesh.control.rollout import Deployment, Fault, Gates, Seen, Stage, stages
from mesh.control.source import Source
from mesh.control.standing import seen
from mesh.place import EDGE, PLATFORM
from mesh.replication import Group, NotHome, ReplicationError, Transaction, WriteContext
from mesh.runtime import FailedPrecondition, NotFound
from mesh.topology import Topology
from mesh.xds.fleet import Instance

_EVERY = 0.5
"""Seconds between looks at the sidecars."""

_AGAIN = 1.0
"""Seconds after which a decision is written again that could not be."""

Observe = Callable[[str, str], Awaitable[sidecars.FleetStatus | None]]
"""How the sidecars of a region stand, for a deploy; None if the region does not answer."""

_log = structlog.get_logger("isthmus.control")


@dataclass(frozen=True)
class Order:
    """What somebody wants deployed. `first` None: whichever sidecar changes."""

    kind: pb.DeployKind.ValueType
    source: Source
    gates: Gates
    first: Instance | None = None


class Coordinator:
    """One deploy at a time."""

    def __init__(
        self,
        group: Group,
        topology: Topology,
        observe: Observe,
        source_of: Callable[[str], Source],
        own: Callable[[], WriteContext],
    ) -> None:
        """`source_of` finds a revision's source, `own` is the context of what it writes itself."""
        self._group = group
        self._topology = topology
        self._observe = observe
        self._source_of = source_of
        self._own = own
        self._running: asyncio.Task[None] | None = None
        self._abandoned = ""
        self._last: dict[str, tuple[float, sidecars.FleetStatus]] = {}

    def decides(self) -> bool:
        """Whether this is the region that decides, or shall be at first."""
        rollout = self._group.get(pb.Rollout, MESH)
        if rollout is not None:
            return rollout.home == self._group.region
        first = self._topology.members.home or self._topology.region_names[0]
        return first == self._group.region

    async def install(self, installed: str, good: str) -> None:
        """Notes the installation that this process starts with, once it can; if it decides."""
        if self.decides():
            actor = self._own().actor
            try:
                await self._write(lambda tx: history.install(tx, installed, good, actor))
            except NotHome as error:
                _log.info("another region decides now", home=error.home)

    async def begin(self, order: Order, context: WriteContext) -> pb.Deploy:
        """Begins a deploy. Raises what `history.begin` and a write do."""
        fresh = False

        def change(tx: Transaction) -> pb.Deploy:
            nonlocal fresh
            fresh = True
            return history.begin(tx, order.kind, order.source.name, context.actor)

        deploy = await self._group.write(change, context)
        if fresh:
            self._abandoned = ""
            self._running = asyncio.create_task(
                self._carry_out(deploy, order), name=f"deploy {deploy.deploy_id}"
            )
        return deploy

    def abandon(self, actor: str) -> pb.Deploy | None:
        """Has the deploy that runs taken back; None if none does."""
        rollout = self._group.get(pb.Rollout, MESH)
        if rollout is None or not rollout.state.deploy_id:
            return None
        self._abandoned = f"{actor} ended it"
        return self._group.get(pb.Deploy, rollout.state.deploy_id)

    async def move_home(self, region: str, context: WriteContext) -> pb.Rollout:
        """Gives the decisions to another region.

        Raises `NotFound` and `FailedPrecondition` for one that cannot have them, and what
        `history.move_home` and a write do.
        """
        if region not in self._topology.region_names:
            raise NotFound(
                f"no region {region!r} is configured; there are "
                f"{', '.join(self._topology.region_names)}",
                reason="NO_SUCH_REGION",
            )
        if not self._group.members.table.counts(region):
            raise FailedPrecondition(
                f"{region} is no member of the group {self._group.name!r} now, and would not be "
                "heard: see `isthmus members list`",
                reason="NOT_A_MEMBER",
            )
        return await self._group.write(lambda tx: history.move_home(tx, region), context)

    async def take_home(self, context: WriteContext) -> pb.Rollout:
        """Takes the decisions to this region. Raises what `history.take_home` and a write do."""
        region = self._group.region
        return await self._group.write(lambda tx: history.take_home(tx, region), context)

    async def close(self) -> None:
        """Leaves a deploy where it is: the next start takes it back."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    async def _carry_out(self, deploy: pb.Deploy, order: Order) -> None:
        try:
            await self._until_ended(deploy, order)
        except NotHome as error:
            # Whoever took the decisions has ended the deploy.
            _log.warning("another region decides now", deploy=deploy.deploy_id, home=error.home)

    async def _until_ended(self, deploy: pb.Deploy, order: Order) -> None:
        try:
            phase, reason, blame = await self._deploy(deploy, order)
        except NotHome:
            raise
        except Exception as error:
            _log.exception("deploy failed unexpectedly", deploy=deploy.deploy_id)
            phase, reason, blame = pb.DEPLOY_PHASE_ROLLED_BACK, f"internal error: {error!r}", ()
        await self._write(lambda tx: history.close(tx, deploy, phase, reason, blame))
        _log.info(
            "deploy ended",
            deploy=deploy.deploy_id,
            phase=pb.DeployPhase.Name(phase),
            reason=reason,
        )

    async def _deploy(
        self, deploy: pb.Deploy, order: Order
    ) -> tuple[pb.DeployPhase.ValueType, str, Sequence[str]]:
        judging = asyncio.create_task(judge(self._source_of(deploy.record.previous), order.source))
        try:
            before = [await self._look(deploy.deploy_id)]
            while not judging.done():
                await asyncio.wait((judging,), timeout=_EVERY)
                before.append(await self._look(deploy.deploy_id))
                if self._abandoned:
                    return pb.DEPLOY_PHASE_REFUSED, self._abandoned, ()
            judged = await judging
        except Refused as error:
            return pb.DEPLOY_PHASE_REFUSED, error.reason, error.blame
        finally:
            judging.cancel()
        everybody = [
            Instance(region, workload)
            for region in self._topology.failover_order(self._group.region)
            if self._group.members.table.counts(region)  # nobody waits for who was evicted
            for workload in (*self._topology.workloads, EDGE)
            if workload not in PLATFORM
        ]
        # Nobody has to run another version; one that runs counts as all others do.
        running = before[-1]
        everybody += [
            each for each in judged.versions if each in running and running[each].connected
        ]
        changed = [each for each in judged.changed if each in everybody]
        if order.first is not None and order.first not in everybody:
            return pb.DEPLOY_PHASE_REFUSED, f"{order.first} has no configuration to deploy", ()
        way = stages(changed, everybody, order.first)
        if order.kind == pb.DEPLOY_KIND_ROLLBACK:
            way = [Stage("everywhere", frozenset(everybody))]
        deployment = Deployment(order.source.name, way, order.gates)
        for found in before:
            deployment.note(found)
        deploy.record.sidecars = len(changed)

        def first(tx: Transaction) -> pb.Deploy:
            history.keep(tx, order.source, judged.compiled)
            stage = deployment.stage
            return history.advance(tx, deploy, stage.name, stage.instances, watching=False)

        await self._write(first)
        fault = await self._watch(deploy, deployment)
        if fault is None:
            return pb.DEPLOY_PHASE_CONFIRMED, "", ()
        blame = _blame(judged, fault) if fault.instance is not None else ()
        return pb.DEPLOY_PHASE_ROLLED_BACK, fault.reason, blame

    async def _watch(self, deploy: pb.Deploy, deployment: Deployment) -> Fault | None:
        """Steps through the stages; None once the last one has passed."""
        loop = asyncio.get_running_loop()
        shown = (deployment.stage.name, False)
        while True:
            found = await self._look(deploy.deploy_id)
            if self._abandoned:
                return Fault(self._abandoned)
            for _, status in self._last.values():
                if status.refused_deploy == deploy.deploy_id:
                    return Fault(status.refused_because)
            step = deployment.step(loop.time(), found)
            if step.fault is not None:
                return step.fault
            if step.done:
                return None
            stage, watching = deployment.stage, step.watching and step.stage == deployment.stage
            if (stage.name, watching) != shown:
                shown = (stage.name, watching)
                await self._write(
                    lambda tx, stage=stage, watching=watching: history.advance(  # type: ignore[misc]  # defaults bind the loop's values
                        tx, deploy, stage.name, stage.instances, watching=watching
                    )
                )
            await asyncio.sleep(_EVERY)

    async def _look(self, deploy_id: str) -> Mapping[Instance, Seen]:
        """How all sidecars stand; of a region that does not answer, what it said last."""
        loop = asyncio.get_running_loop()
        regions = self._topology.region_names
        statuses = await asyncio.gather(*(self._observe(each, deploy_id) for each in regions))
        for region, status in zip(regions, statuses, strict=True):
            if status is not None:
                self._last[region] = (loop.time(), status)
        found: dict[Instance, Seen] = {}
        for at, status in self._last.values():
            found |= seen(status, loop.time() - at)
        return found

    async def _write(self, change: Callable[[Transaction], pb.Rollout | pb.Deploy]) -> None:
        """Writes until it is written. Raises `NotHome` once another region decides."""
        while True:
            try:
                await self._group.write(change, self._own())
                return
            except NotHome:
                raise
            except ReplicationError as error:
                _log.warning("cannot decide", error=str(error))
                await asyncio.sleep(_AGAIN)


def _blame(judged: Judged, fault: Fault) -> tuple[str, ...]:
    return judged.blame(fault.instance, fault.method)
