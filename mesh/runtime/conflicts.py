"""What merging decided between concurrent values, for operators."""

from __future__ import annotations

import grpc
from isthmus.replication.v1 import conflict_pb2 as pb
from isthmus.replication.v1 import conflict_pb2_grpc as rpc

from mesh.replication import Group, NotReplicated, conflicts

Context = grpc.aio.ServicerContext[pb.ListConflictsRequest, pb.ListConflictsResponse]


class ConflictsService(rpc.ConflictsServiceServicer):
    """Serves `isthmus.replication.v1.ConflictsService` for the group that the workload owns."""

    def __init__(self, group: Group) -> None:
        self._group = group

    async def ListConflicts(
        self, request: pb.ListConflictsRequest, context: Context
    ) -> pb.ListConflictsResponse:
        """The newest conflicts, the newest first, without values that are not to be shown."""
        group = self._group
        try:
            (type,) = group.types([request.type]) if request.type else (None,)
        except NotReplicated as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        return pb.ListConflictsResponse(
            conflicts=map(conflicts.to_proto, group.conflicts(type, request.key)),
            group=group.name,
            region=group.region,
        )
