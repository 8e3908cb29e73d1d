"""Bugs of tokens and of durability that the simulation must find; see `bugs`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

from mesh.replication.core import sending, tokens
from mesh.replication.core.clocks import vector_from_proto
from mesh.replication.core.durable import Durable


def a_token_is_not_looked_at() -> Iterator[None]:
    with patch.object(tokens, "decode", lambda data: {}):
        yield


def a_relays_word_counts_for_others() -> Iterator[None]:
    real = Durable.acknowledged

    def acknowledged(self: Durable, peer: str, vector: Any) -> None:
        for each in self._peers:
            real(self, each, vector)

    with patch.object(Durable, "acknowledged", acknowledged):
        yield


def what_is_applied_counts_as_durable() -> Iterator[None]:
    real = sending.Sender.on_message

    def on_message(self: sending.Sender, message: Any, now_ms: int) -> Any:
        answer = real(self, message, now_ms)
        if message.HasField("acknowledgement"):
            self.durable = vector_from_proto(message.acknowledgement.applied)
        return answer

    with patch.object(sending.Sender, "on_message", on_message):
        yield


BUGS_OF_CALLS = (
    a_token_is_not_looked_at,
    a_relays_word_counts_for_others,
    what_is_applied_counts_as_durable,
)
