"""What a method raises to answer with a typed status.

RpcError
├── InvalidArgument      the request is wrong, whatever the state
├── NotFound             what the request names is not there
├── AlreadyExists        what the request would create is there
├── FailedPrecondition   right, but not in this state
├── PermissionDenied     the caller may not do this
├── Unauthenticated      the caller did not prove who it is
├── Aborted              lost to another call; start again
├── ResourceExhausted    too much; `retry_after` says when it is worth another try
└── Unavailable          not now; another instance may serve it

Each carries `google.rpc.ErrorInfo` with a reason in UPPER_SNAKE_CASE and the domain
`isthmus.dev`, so that a program never has to read the message (AIP-193).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any as Any_
from typing import ClassVar

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from mesh.contracts.model import ERROR_DOMAIN


class RpcError(Exception):
    """A typed answer. `details` are further google.rpc messages."""

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.UNKNOWN

    def __init__(
        self,
        message: str,
        *,
        reason: str,
        metadata: Mapping[str, str] | None = None,
        details: tuple[Message, ...] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.metadata = dict(metadata or {})
        self.details = details

    def status(self) -> Status:
        """The `google.rpc.Status` to answer with."""
        info = error_details_pb2.ErrorInfo(
            reason=self.reason, domain=ERROR_DOMAIN, metadata=self.metadata
        )
        packed = []
        for detail in (info, *self.details):
            packed.append(Any())
            packed[-1].Pack(detail)
        number: int = self.code.value[0]
        return Status(code=number, message=self.message, details=packed)


class InvalidArgument(RpcError):
    """The request is wrong, whatever the state."""

    code = grpc.StatusCode.INVALID_ARGUMENT

    @classmethod
    def fields(cls, violations: Mapping[str, str]) -> InvalidArgument:
        """For a request whose fields (by path) are wrong as described."""
        bad = error_details_pb2.BadRequest(
            field_violations=[
                error_details_pb2.BadRequest.FieldViolation(field=field, description=text)
                for field, text in violations.items()
            ]
        )
        listed = "; ".join(f"{field}: {text}" for field, text in violations.items())
        return cls(f"invalid request: {listed}", reason="INVALID_FIELDS", details=(bad,))


class NotFound(RpcError):
    """What the request names is not there."""

    code = grpc.StatusCode.NOT_FOUND


class AlreadyExists(RpcError):
    """What the request would create is there."""

    code = grpc.StatusCode.ALREADY_EXISTS


class FailedPrecondition(RpcError):
    """Right, but not in this state."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class PermissionDenied(RpcError):
    """The caller may not do this."""

    code = grpc.StatusCode.PERMISSION_DENIED


class Unauthenticated(RpcError):
    """The caller did not prove who it is."""

    code = grpc.StatusCode.UNAUTHENTICATED


class Aborted(RpcError):
    """Lost to another call; start again."""

    code = grpc.StatusCode.ABORTED


class ResourceExhausted(RpcError):
    """Too much at once."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class Unavailable(RpcError):
    """Not now; another instance may serve it."""

    code = grpc.StatusCode.UNAVAILABLE


async def abort(context: grpc.aio.ServicerContext[Any_, Any_], error: RpcError) -> None:
    """Ends the call with the error's status and details."""
    status = rpc_status.to_status(error.status())
    # Not abort_with_status: the span of a call is told its status by `abort` alone.
    await context.abort(status.code, status.details, status.trailing_metadata)
