"""Decisions about a group's members, for operators."""

from __future__ import annotations

import grpc
from isthmus.replication.v1 import members_pb2 as pb
from isthmus.replication.v1 import members_pb2_grpc as rpc

from mesh.replication import Group, decisions
from mesh.runtime.context import call_context

Context = grpc.aio.ServicerContext


class MembersService(rpc.MembersServiceServicer):
    """Serves `isthmus.replication.v1.MembersService` for the group that the workload owns."""

    def __init__(self, group: Group) -> None:
        self._members = group.members

    async def List(
        self, request: pb.ListRequest, context: Context[pb.ListRequest, pb.ListResponse]
    ) -> pb.ListResponse:
        """How the members stand here."""
        return pb.ListResponse(members=self._members.status())

    async def Join(
        self, request: pb.JoinRequest, context: Context[pb.JoinRequest, pb.JoinResponse]
    ) -> pb.JoinResponse:
        """Takes in again a region that left."""
        found = await self._members.decide(decisions.join, request.region, call_context(request))
        return pb.JoinResponse(members=found)

    async def Leave(
        self, request: pb.LeaveRequest, context: Context[pb.LeaveRequest, pb.LeaveResponse]
    ) -> pb.LeaveResponse:
        """Lets a region go."""
        found = await self._members.decide(decisions.leave, request.region, call_context(request))
        return pb.LeaveResponse(members=found)

    async def Evict(
        self, request: pb.EvictRequest, context: Context[pb.EvictRequest, pb.EvictResponse]
    ) -> pb.EvictResponse:
        """Goes on without a region."""
        found = await self._members.decide(decisions.evict, request.region, call_context(request))
        return pb.EvictResponse(members=found)

    async def Rejoin(
        self, request: pb.RejoinRequest, context: Context[pb.RejoinRequest, pb.RejoinResponse]
    ) -> pb.RejoinResponse:
        """Readmits an evicted region."""
        found = await self._members.decide(decisions.rejoin, request.region, call_context(request))
        return pb.RejoinResponse(members=found)

    async def MoveHome(
        self,
        request: pb.MoveHomeRequest,
        context: Context[pb.MoveHomeRequest, pb.MoveHomeResponse],
    ) -> pb.MoveHomeResponse:
        """Moves the decisions to another region."""
        found = await self._members.move_home(
            request.region, call_context(request), force=request.force
        )
        return pb.MoveHomeResponse(members=found)
