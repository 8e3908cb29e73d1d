"""The control plane's own methods: see isthmus/mesh/v1/deploy.proto and sidecars.proto."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import grpc
import structlog
import yaml
from isthmus.mesh.v1 import deploy_pb2 as pb
from isthmus.mesh.v1 import rollout_pb2, sidecars_pb2
from isthmus.mesh.v1.deploy_pb2_grpc import DeployServiceServicer
from isthmus.mesh.v1.sidecars_pb2_grpc import SidecarServiceServicer

from mesh.control import history
from mesh.control.agents import reporting
from mesh.control.coordinator import Coordinator, Order
from mesh.control.follower import MESH, Follower
from mesh.control.reports import Reports
from mesh.control.rollout import Gates
from mesh.control.source import Source
from mesh.control.standing import fleet_status
from mesh.control.store import StoreDamaged
from mesh.replication import Group
from mesh.runtime import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    call_context,
    caller,
)
from mesh.topology import TopologyError
from mesh.traffic import Drill
from mesh.xds.fleet import Fleet, Instance

_log = structlog.get_logger("isthmus.control")

Context = grpc.aio.ServicerContext[Any, Any]

_ANSWERED_WITHIN = 1.0
_AT_ONCE = Gates(window=0.0, acknowledged_within=20.0, more_failures=1.0)
"""What a rollback must pass: it goes back to what was good, and everybody waits for it."""


class DeployService(DeployServiceServicer):
    """Deploys and their history."""

    def __init__(
        self, group: Group, coordinator: Coordinator, source_of: Callable[[str], Source]
    ) -> None:
        self._group = group
        self._coordinator = coordinator
        self._source_of = source_of

    async def Apply(self, request: pb.ApplyRequest, context: Context) -> pb.ApplyResponse:
        """Begins a deploy."""
        source = Source(request.contract, request.topology)
        try:
            name = source.name
        except yaml.YAMLError as error:
            raise InvalidArgument.fields({"topology": f"not valid YAML: {error}"}) from None
        del name  # it can be named, so it can be kept
        first = None
        if request.HasField("first"):
            first = Instance(request.first.region, request.first.workload)
        order = Order(rollout_pb2.DEPLOY_KIND_APPLY, source, _gates(request.gates), first)
        return pb.ApplyResponse(deploy=await self._coordinator.begin(order, call_context(request)))

    async def Rollback(self, request: pb.RollbackRequest, context: Context) -> pb.RollbackResponse:
        """Ends the deploy that runs, or goes back."""
        running = None if request.revision else self._coordinator.abandon(str(caller()))
        if running is not None:
            return pb.RollbackResponse(deploy=running)
        name = request.revision or self._before()
        try:
            source = self._source_of(name)
        except StoreDamaged:
            known = history.kept(self._group.list(rollout_pb2.Deploy), self._good())
            raise NotFound(
                f"revision {name} is not kept: there are {', '.join(sorted(known))}",
                reason="NO_SUCH_REVISION",
            ) from None
        order = Order(rollout_pb2.DEPLOY_KIND_ROLLBACK, source, _AT_ONCE)
        deploy = await self._coordinator.begin(order, call_context(request))
        return pb.RollbackResponse(deploy=deploy)

    async def MoveHome(self, request: pb.MoveHomeRequest, context: Context) -> pb.MoveHomeResponse:
        """Gives the decisions to another region."""
        rollout = await self._coordinator.move_home(request.region, call_context(request))
        _log.info("decisions given", home=rollout.home)
        return pb.MoveHomeResponse(home=rollout.home)

    async def TakeHome(self, request: pb.TakeHomeRequest, context: Context) -> pb.TakeHomeResponse:
        """Takes the decisions to this region."""
        rollout = await self._coordinator.take_home(call_context(request))
        _log.info("decisions taken", home=rollout.home)
        return pb.TakeHomeResponse(home=rollout.home)

    async def GetDeploy(
        self, request: pb.GetDeployRequest, context: Context
    ) -> pb.GetDeployResponse:
        """One deploy."""
        found = self._group.get(rollout_pb2.Deploy, request.deploy_id)
        if found is None:
            raise NotFound(
                f"no deploy {request.deploy_id} is known in {self._group.region}",
                reason="NO_SUCH_DEPLOY",
            )
        return pb.GetDeployResponse(deploy=found)

    async def ListDeploys(
        self, request: pb.ListDeploysRequest, context: Context
    ) -> pb.ListDeploysResponse:
        """All deploys that are remembered."""
        found = history.listed(self._group.list(rollout_pb2.Deploy))
        return pb.ListDeploysResponse(deploys=found)

    def _good(self) -> str:
        rollout = self._group.get(rollout_pb2.Rollout, MESH)
        return "" if rollout is None else rollout.state.good

    def _before(self) -> str:
        """What was good before what is good now."""
        good = self._good()
        for deploy in history.listed(self._group.list(rollout_pb2.Deploy)):
            record = deploy.record
            confirmed = record.phase == rollout_pb2.DEPLOY_PHASE_CONFIRMED
            if confirmed and record.revision == good and record.previous:
                return record.previous
        raise FailedPrecondition(
            "there is no revision before the one that runs", reason="NOTHING_BEFORE"
        )


class SidecarService(SidecarServiceServicer):
    """What sidecars' agents say, for whoever asks how the region's sidecars stand."""

    def __init__(
        self,
        region: str,
        fleet: Fleet,
        reports: Reports,
        follower: Follower,
        now_ms: Callable[[], int],
        source_of: Callable[[str], Source],
    ) -> None:
        self._region = region
        self._fleet = fleet
        self._reports = reports
        self._follower = follower
        self._now_ms = now_ms
        self._source_of = source_of
        self._drills_of = lru_cache(maxsize=4)(self._read_drills)

    async def Report(
        self, request: sidecars_pb2.ReportRequest, context: Context
    ) -> sidecars_pb2.ReportResponse:
        """Takes a report of the caller's own sidecar; answers when the next one is wanted."""
        instance = reporting(context, self._region, self._fleet)
        return await self._reports.take(instance, request.report)

    async def GetFleet(
        self, request: sidecars_pb2.GetFleetRequest, context: Context
    ) -> sidecars_pb2.GetFleetResponse:
        """How the region's sidecars stand."""
        return sidecars_pb2.GetFleetResponse(fleet=await self.fleet(calls=False))

    async def ObserveFleet(
        self, request: sidecars_pb2.ObserveFleetRequest, context: Context
    ) -> sidecars_pb2.ObserveFleetResponse:
        """The same with calls counted, for a deploy."""
        return sidecars_pb2.ObserveFleetResponse(fleet=await self.fleet(calls=True))

    async def fleet(self, *, calls: bool) -> sidecars_pb2.FleetStatus:
        """Asks the agents, and says how all stand."""
        await self._reports.ask(calls=calls, within=_ANSWERED_WITHIN)
        return self.standing()

    def standing(self) -> sidecars_pb2.FleetStatus:
        """How all stand by what is known."""
        return fleet_status(
            self._region,
            self._follower.installed,
            self._fleet,
            self._reports.last,
            self._now_ms(),
            self._follower.refused,
            self._drills_of,
        )

    def _read_drills(self, revision: str) -> tuple[Drill, ...]:
        try:
            return self._source_of(revision).topology().traffic.drills
        except (StoreDamaged, TopologyError, zlib.error) as error:
            # The sidecars' own state is no less true.
            _log.warning("the drills of a revision", revision=revision, problem=str(error))
            return ()


def _gates(asked: pb.Gates) -> Gates:
    usual = Gates()
    return Gates(
        asked.window.ToTimedelta().total_seconds() if asked.HasField("window") else usual.window,
        asked.acknowledged_within.ToTimedelta().total_seconds()
        if asked.HasField("acknowledged_within")
        else usual.acknowledged_within,
        asked.more_failures if asked.HasField("more_failures") else usual.more_failures,
        asked.few_failures if asked.HasField("few_failures") else usual.few_failures,
    )
