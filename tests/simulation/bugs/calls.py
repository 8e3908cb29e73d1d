"""Bugs of tokens, durability and operations that the simulation must find; see `bugs`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

from mesh.replication.core import (
    sending,
    tokens,
)
from mesh.replication.core.clocks import vector_from_proto
from mesh.replication.core.durable import Durable
from mesh.replication.core.grants import Claims
from tests.simulation.bugs.registry import bug
from tests.simulation.disk import Disk
from tests.simulation.repeats import Repeats


@bug
def tokens_name_too_little() -> Iterator[None]:
    real = tokens.reduced

    def reduced(vector: Any, implied: Any) -> Any:
        return dict(sorted(real(vector, implied).items())[:1])

    with patch.object(tokens, "reduced", reduced):
        yield


@bug
def fences_are_not_stored() -> Iterator[None]:
    with patch.object(Disk, "fence", lambda disk, operation, time_ms: None):
        yield


@bug
def a_repeat_asks_nobody() -> Iterator[None]:
    real = Repeats.attempt

    def attempt(self: Repeats, id: str, write: Any, **_: Any) -> None:
        with patch.object(Claims, "is_fenced", lambda *_: False):
            real(self, id, write, repeated=False)

    with patch.object(Repeats, "attempt", attempt):
        yield


@bug
def a_token_is_not_looked_at() -> Iterator[None]:
    with patch.object(tokens, "decode", lambda data: {}):
        yield


@bug
def a_relays_word_counts_for_others() -> Iterator[None]:
    real = Durable.acknowledged

    def acknowledged(self: Durable, peer: str, vector: Any) -> None:
        for each in self._peers:
            real(self, each, vector)

    with patch.object(Durable, "acknowledged", acknowledged):
        yield


@bug
def what_is_applied_counts_as_durable() -> Iterator[None]:
    real = sending.Sender.on_message

    def on_message(self: sending.Sender, message: Any, now_ms: int) -> Any:
        answer = real(self, message, now_ms)
        if message.HasField("acknowledgement"):
            self.durable = vector_from_proto(message.acknowledgement.applied)
        return answer

    with patch.object(sending.Sender, "on_message", on_message):
        yield
