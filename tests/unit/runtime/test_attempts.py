"""A request that was sent before says so, and its method knows."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest
from isthmus.channels.v1.channel_pb2 import TEST_PATTERN_BARS, Source
from isthmus.channels.v1.channels_pb2 import CreateChannelRequest, GetChannelRequest

from mesh.runtime.attempts import Attempts, repeated
from mesh.runtime.context import call_context
from mesh.runtime.session_tokens import SessionTokens
from tests.unit.runtime.serving import call, operator, serving, through_edge


@pytest.mark.parametrize(
    ("metadata", "again"),
    [
        ([], False),
        ([("x-envoy-attempt-count", "1")], False),
        ([("x-envoy-attempt-count", "2")], True),
        ([("isthmus-attempt", "2"), ("x-envoy-attempt-count", "1")], True),
        ([("isthmus-attempt", "what")], True),
        ([("attempt", "2")], False),
    ],
)
def test_a_call_says_whether_it_may_have_arrived_before(
    metadata: list[tuple[str, str]], again: bool
) -> None:
    assert repeated(metadata) is again


def test_attempts_are_counted_by_id() -> None:
    attempts = Attempts()
    one, other = (CreateChannelRequest(request_id=each) for each in ("one", "other"))
    assert attempts.sending(one) is None
    assert attempts.sending(other) is None
    assert attempts.sending(one) == ("isthmus-attempt", "2")
    assert attempts.sending(one) == ("isthmus-attempt", "3")
    assert attempts.sending(CreateChannelRequest()) is None
    assert attempts.sending(GetChannelRequest()) is None
    for number in range(5000):
        attempts.sending(CreateChannelRequest(request_id=str(number)))
    assert attempts.sending(other) is None  # forgotten by now


class Notes:
    """Notes of each call whether it was sent before."""

    def __init__(self) -> None:
        self.repeated: list[bool] = []

    async def Unary(self, request: CreateChannelRequest, context: Any) -> GetChannelRequest:
        self.repeated.append(call_context(request).repeated)
        return GetChannelRequest(channel_id=request.channel_id)


async def test_a_client_that_sends_a_request_again_says_so(tmp_path: Path) -> None:
    notes = Notes()
    ann = through_edge(operator())
    async with serving(tmp_path, notes, client=[SessionTokens()]) as channel:
        one, other = str(uuid.uuid4()), str(uuid.uuid4())
        source = Source(test_pattern=TEST_PATTERN_BARS)
        for request_id in (one, other, one, "", ""):
            request = CreateChannelRequest(channel_id="news", source=source, request_id=request_id)
            await call(channel, "Unary", request, ann)
    assert notes.repeated == [False, False, True, False, False]
