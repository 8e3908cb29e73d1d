"""A real gRPC server behind the gate on a Unix socket, and a client that forges what it likes."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status
from isthmus.channels.v1.channels_pb2 import CreateChannelRequest, GetChannelRequest

from mesh.contracts.model import Callers, Role
from mesh.runtime.authorization import Rule
from mesh.runtime.end_principals import EndPrincipals
from mesh.runtime.gate import Gate
from mesh.runtime.sessions import Sessions

M = TypeVar("M", bound=Message)

DOMAIN = "isthmus.test"
SERVICE = "test.v1.EchoService"
CALLERS = Callers(roles=frozenset({Role.OPERATOR}), workloads=frozenset({"overview"}))


def workload(name: str, region: str = "eu") -> str:
    """A workload's SPIFFE identity."""
    return f"spiffe://{DOMAIN}/region/{region}/workload/{name}"


def operator(name: str = "ann") -> str:
    """An operator's SPIFFE identity."""
    return f"spiffe://{DOMAIN}/operator/{name}"


def device(name: str = "cam-1") -> str:
    """A device's SPIFFE identity."""
    return f"spiffe://{DOMAIN}/device/{name}"


def element(uri: str) -> str:
    """What a sidecar writes about a peer."""
    return f'By={workload("echo")};Hash={"ab" * 32};Subject="CN=x,O=\\"y\\"";URI={uri}'


def through_edge(uri: str) -> str:
    """The header of a call that an edge passed on."""
    return f"{element(uri)},{element(workload('edge'))}"


RULES = {
    f"/{SERVICE}/{name}": Rule(f"/{SERVICE}/{name}", CALLERS, "echo/v1/echo.proto:7")
    for name in ("Unary", "Collect", "Feed", "Write", "Talk")
}


def handlers(servicer: Any) -> grpc.GenericRpcHandler:
    """The methods of a servicer, of all kinds; requests are CreateChannelRequests."""
    kinds = {
        "Unary": grpc.unary_unary_rpc_method_handler,
        "Collect": grpc.stream_unary_rpc_method_handler,
        "Feed": grpc.unary_stream_rpc_method_handler,
        "Write": grpc.unary_stream_rpc_method_handler,
        "Talk": grpc.stream_stream_rpc_method_handler,
        "Undeclared": grpc.unary_unary_rpc_method_handler,
    }
    return grpc.method_handlers_generic_handler(
        SERVICE,
        {
            name: kind(
                getattr(servicer, name),
                request_deserializer=CreateChannelRequest.FromString,
                response_serializer=GetChannelRequest.SerializeToString,
            )
            for name, kind in kinds.items()
            if hasattr(servicer, name)
        },
    )


@asynccontextmanager
async def serving(
    folder: Path,
    servicer: Any,
    *,
    rules: Mapping[str, Rule] = RULES,
    before: Sequence[Any] = (),
    sessions: Sessions | None = None,
    identity: Path | None = None,
    client: Sequence[grpc.aio.ClientInterceptor] = (),
) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a server that has the gate, as workload `echo` of region `eu`."""
    ends = EndPrincipals(identity or folder / "identity", DOMAIN, time.time_ns)
    gate = Gate(rules, "echo", "eu", DOMAIN, sessions or Sessions(), ends)
    server = grpc.aio.server(interceptors=[*before, gate])
    server.add_generic_rpc_handlers((handlers(servicer),))
    socket = folder / "app.sock"
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"unix:{socket}", interceptors=client) as channel:
            yield channel
    finally:
        await server.stop(0)


def call(channel: grpc.aio.Channel, method: str, request: Any, header: str | None) -> Any:
    """Starts a call of any kind; `request` is a list where the client streams."""
    streams_in = isinstance(request, list)
    streams_out = method in ("Feed", "Write", "Talk")
    kind = {
        (False, False): channel.unary_unary,
        (True, False): channel.stream_unary,
        (False, True): channel.unary_stream,
        (True, True): channel.stream_stream,
    }[streams_in, streams_out]
    metadata = [] if header is None else [("x-forwarded-client-cert", header)]
    start = kind(  # type: ignore[operator]  # the four differ in what they take
        f"/{SERVICE}/{method}",
        request_serializer=CreateChannelRequest.SerializeToString,
        response_deserializer=GetChannelRequest.FromString,
    )
    return start(iter(request) if streams_in else request, metadata=metadata, timeout=10)


async def answer(started: Any) -> list[str]:
    """What a call answered: the ids of its responses."""
    if hasattr(started, "__aiter__"):
        return [response.channel_id async for response in started]
    return [(await started).channel_id]


def status_of(error: grpc.aio.AioRpcError) -> Status:
    """The google.rpc.Status of an error."""
    status = rpc_status.from_call(error)
    assert status is not None, error
    return status


def reason_of(error: grpc.aio.AioRpcError) -> error_details_pb2.ErrorInfo:
    """The ErrorInfo of an error."""
    return _detail(error, error_details_pb2.ErrorInfo())


def violations_of(error: grpc.aio.AioRpcError) -> dict[str, str]:
    """The field violations of a bad request, by field."""
    bad = _detail(error, error_details_pb2.BadRequest())
    return {violation.field: violation.description for violation in bad.field_violations}


def _detail(error: grpc.aio.AioRpcError, kind: M) -> M:
    for packed in status_of(error).details:
        if packed.Unpack(kind):
            return kind
    raise AssertionError(f"{kind.DESCRIPTOR.full_name} is not in {error}")
