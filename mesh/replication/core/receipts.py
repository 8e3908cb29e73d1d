"""Receipts: the kept results of operations that carry a request id (AIP-155).

A receipt goes into the commit of its write, and with the write's frame to every region, so that a
repeat has no second effect wherever it arrives after that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from isthmus.replication.v1 import frame_pb2

from mesh.replication.core.clocks import milliseconds

ReceiptKey = tuple[str, str, str]
"""A receipt's actor, method and request id."""

KEPT_MS = 24 * 3600 * 1000
"""For how long an operation id is known: a day."""


class Receipt(NamedTuple):
    """The kept result of an operation; `digest` is the request's. Without a type it is `bare`."""

    actor: str
    method: str
    request_id: str
    digest: bytes
    type: str
    response: bytes
    time_ms: int

    def bare(self) -> Receipt:
        """That the operation was done, without what it asked and answered.

        For a group with HOME_REGION fields: their values may be in the result, and a digest of a
        request tells a value that can be guessed.
        """
        return self._replace(digest=b"", type="", response=b"")


class Columns(Protocol):
    """The columns of a frame that receipts need."""

    @property
    def actors(self) -> Sequence[str]:
        """Who asked for each change."""

    @property
    def request_ids(self) -> Sequence[str]:
        """The operation id of each change's write."""

    @property
    def clocks(self) -> Sequence[int]:
        """Each change's clock."""


def to_proto(at: int, receipt: Receipt) -> frame_pb2.Receipt:
    """The receipt of the write whose last change is the frame's change `at`.

    What that change says already, who asked and under which id, is left out.
    """
    return frame_pb2.Receipt(
        change=at,
        method=receipt.method,
        request_digest=receipt.digest,
        response_type=receipt.type,
        response=receipt.response,
    )


def from_proto(messages: Iterable[frame_pb2.Receipt], changes: Columns) -> tuple[Receipt, ...]:
    """The receipts in a frame. Raises IndexError if one is of no change."""
    found = []
    for message in messages:
        at = message.change
        found.append(
            Receipt(
                changes.actors[at],
                message.method,
                changes.request_ids[at],
                message.request_digest,
                message.response_type,
                message.response,
                milliseconds(changes.clocks[at]),
            )
        )
    return tuple(found)
