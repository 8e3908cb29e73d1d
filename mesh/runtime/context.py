"""The current call, as its method sees it."""

from __future__ import annotations

import hashlib
from contextvars import ContextVar
from dataclasses import dataclass

from google.protobuf.message import Message
from opentelemetry import trace

from mesh.contracts.model import Durability
from mesh.identity.end_principals import EndPrincipal
from mesh.replication import WriteContext
from mesh.runtime.principal import Principal


@dataclass(frozen=True)
class Call:
    """One call: its full method name (`/package.Service/Method`) and who makes it.

    `durability` is the contract's; `deadline` is when to answer at the latest (seconds of
    `time.monotonic`; None: a stream). `repeated`: its request may have arrived before. `end` is for
    whom it is made, as an edge signed it; calls made within this one pass it on.
    """

    method: str
    principal: Principal
    durability: Durability = Durability.REGION
    deadline: float | None = None
    repeated: bool = False
    end: EndPrincipal | None = None


current: ContextVar[Call] = ContextVar("isthmus_call")


def caller() -> Principal:
    """Who makes the current call. Raises LookupError outside of one."""
    return current.get().principal


def end_principal() -> EndPrincipal | None:
    """For whom the current call is made, through however many services; None if nobody said.

    Raises LookupError outside of a call.
    """
    return current.get().end


def trace_parent() -> str:
    """The current span as a W3C trace parent; empty if there is none."""
    span = trace.get_current_span().get_span_context()
    if not span.is_valid:
        return ""
    return f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"


def call_context(request: Message) -> WriteContext:
    """What a write of the current call carries.

    A `request_id` in the request makes it idempotent (AIP-155); the rest of the request is
    digested, so that an id reused for another request is noticed.
    """
    call = current.get()
    request_id: str = getattr(request, "request_id", "")
    return WriteContext(
        actor=str(call.principal),
        trace_parent=trace_parent(),
        request_id=request_id,
        method=call.method,
        request_digest=hashlib.sha256(request.SerializeToString(deterministic=True)).digest()
        if request_id
        else b"",
        repeated=call.repeated,
        durability=call.durability,
        deadline=call.deadline,
    )


def own_context(actor: str) -> WriteContext:
    """What a write that the workload makes on its own carries."""
    return WriteContext(actor=actor, trace_parent=trace_parent())
