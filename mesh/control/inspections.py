"""What a region's sidecars should run and do run: see isthmus/mesh/v1/inspection.proto."""

from __future__ import annotations

from typing import Any

import grpc
from isthmus.mesh.v1 import inspection_pb2 as pb
from isthmus.mesh.v1 import revision_pb2
from isthmus.mesh.v1.inspection_pb2_grpc import InspectionServiceServicer

from mesh.control.compiled import pack
from mesh.control.reports import Reports
from mesh.control.services import SidecarService
from mesh.control.store import Store, StoreDamaged
from mesh.runtime import NotFound
from mesh.xds.fleet import Fleet, Instance
from mesh.xds.resources import Library

Context = grpc.aio.ServicerContext[Any, Any]

_ANSWERED_WITHIN = 8.0
"""Seconds that agents have: a busy machine may run all of a region's."""


class InspectionService(InspectionServiceServicer):
    """Answers for one region."""

    def __init__(
        self,
        region: str,
        fleet: Fleet,
        store: Store,
        library: Library,
        reports: Reports,
        sidecars: SidecarService,
    ) -> None:
        self._region = region
        self._fleet = fleet
        self._store = store
        self._library = library
        self._reports = reports
        self._sidecars = sidecars

    async def GetRevision(
        self, request: pb.GetRevisionRequest, context: Context
    ) -> pb.GetRevisionResponse:
        """A revision as it is served here; one that is not, as it is kept."""
        try:
            source = self._store.source(request.name)
            compiled = self._compiled(request.name)
        except StoreDamaged as error:
            raise NotFound(
                f"{self._region} has no revision {request.name}: {error}",
                reason="NO_SUCH_REVISION",
            ) from None
        return pb.GetRevisionResponse(
            contract=source.image,
            topology=source.topology_text,
            compiled=revision_pb2.CompiledRevision.FromString(compiled),
        )

    async def InspectSidecars(
        self, request: pb.InspectSidecarsRequest, context: Context
    ) -> pb.InspectSidecarsResponse:
        """Asks the agents."""
        texts: dict[Instance, list[revision_pb2.ResourceName]] = {}
        for each in request.texts:
            texts.setdefault(Instance(self._region, each.workload), []).append(each.resource)
        found = await self._reports.inspect(texts, _ANSWERED_WITHIN)
        answer = pb.InspectSidecarsResponse(fleet=self._sidecars.standing())
        for instance, running in sorted(found.items()):
            answer.sidecars.add(workload=instance.workload, running=running)
        return answer

    def _compiled(self, name: str) -> bytes:
        for revision in (self._fleet.good, self._fleet.wanted):
            if revision.name == name:
                return pack(revision, self._region)
        return pack(self._store.compiled(name, self._library), self._region)
