"""Receipts: the kept results of operations that carry a request id (AIP-155).

A receipt goes into the commit of its write, and with the write's frame to every region, so that a
repeat has no second effect wherever it arrives after that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from isthmus.replication.v1 import frame_pb2

from mesh.replication.core.clocks import milliseconds
from mesh.replication.core.entities import Change


class Receipt(NamedTuple):
    """The kept result of an operation; `digest` is the request's."""

    actor: str
    method: str
    request_id: str
    digest: bytes
    type: str
    response: bytes
    time_ms: int


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


def from_proto(
    messages: Iterable[frame_pb2.Receipt], changes: Sequence[Change]
) -> tuple[Receipt, ...]:
    """The receipts in a frame. Raises IndexError if one is of no change."""
    found = []
    for message in messages:
        change = changes[message.change]
        found.append(
            Receipt(
                change.actor,
                message.method,
                change.request_id,
                message.request_digest,
                message.response_type,
                message.response,
                milliseconds(change.stamp.clock),
            )
        )
    return tuple(found)
