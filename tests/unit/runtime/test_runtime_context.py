"""What a write of a call carries."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from isthmus.channels.v1.channels_pb2 import GetChannelRequest, StartChannelRequest
from opentelemetry.sdk.trace import TracerProvider

from mesh.runtime import call_context, caller, own_context
from mesh.runtime.context import Call, current, trace_parent
from mesh.runtime.principal import from_header
from tests.unit.runtime.serving import DOMAIN, operator, through_edge

METHOD = "/isthmus.channels.v1.ChannelService/StartChannel"


@pytest.fixture
def in_call() -> Iterator[None]:
    """A call by an operator."""
    token = current.set(Call(METHOD, from_header(through_edge(operator()), DOMAIN)))
    yield
    current.reset(token)


@pytest.mark.usefixtures("in_call")
def test_a_write_carries_its_actor_method_and_request_id() -> None:
    request = StartChannelRequest(channel_id="news", request_id="id-1")
    context = call_context(request)
    assert (context.actor, context.method) == (operator(), METHOD)
    assert context.request_id == "id-1"
    assert len(context.request_digest) == 32
    assert caller().name == "ann"


@pytest.mark.usefixtures("in_call")
def test_equal_requests_have_equal_digests_and_others_not() -> None:
    def digest(channel_id: str) -> bytes:
        return call_context(
            StartChannelRequest(channel_id=channel_id, request_id="id-1")
        ).request_digest

    assert digest("news") == digest("news") != digest("sports")


@pytest.mark.usefixtures("in_call")
@pytest.mark.parametrize("request_", [StartChannelRequest(), GetChannelRequest(channel_id="a")])
def test_without_a_request_id_nothing_is_remembered(
    request_: StartChannelRequest | GetChannelRequest,
) -> None:
    context = call_context(request_)
    assert (context.request_id, context.request_digest) == ("", b"")


def test_a_write_carries_its_trace() -> None:
    with TracerProvider().get_tracer("t").start_as_current_span("call") as span:
        parent = own_context("actor").trace_parent
    found = span.get_span_context()
    assert parent == f"00-{found.trace_id:032x}-{found.span_id:016x}-{found.trace_flags:02x}"
    assert trace_parent() == ""


def test_outside_of_a_call_there_is_no_caller() -> None:
    with pytest.raises(LookupError):
        caller()
    with pytest.raises(LookupError):
        call_context(StartChannelRequest())
