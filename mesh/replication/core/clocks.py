"""Time and causality: hybrid logical clocks, origins and vectors.

Hybrid logical clocks after Kulkarni et al., "Logical Physical Clocks" (2014): milliseconds since
1970 in the upper 48 bits, a counter in the lower 16, so that clocks compare as plain integers.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from isthmus.replication.v1 import frame_pb2

COUNTER_BITS = 16
MAX_AHEAD_MS = 5 * 60 * 1000
"""How far ahead of the local wall clock a frame may be."""


class Origin(NamedTuple):
    """One life of a region's journal."""

    region: str
    incarnation: int

    def __str__(self) -> str:
        return f"{self.region}#{self.incarnation}"


Vector = dict[Origin, int]
"""How far each origin is known: every change up to the sequence number, without a gap."""


class HybridClock:
    """The region's hybrid logical clock; the wall's milliseconds are given with each call."""

    def __init__(self, last: int = 0) -> None:
        self.last = last

    def tick(self, now_ms: int) -> int:
        """A clock for a local event, higher than all before."""
        return self.reserve(1, now_ms)

    def reserve(self, count: int, now_ms: int) -> int:
        """The first of so many clocks, one after the other, all higher than those before."""
        first = max(self.last + 1, now_ms << COUNTER_BITS)
        self.last = first + count - 1
        return first

    def receive(self, clock: int) -> None:
        """Takes note of a clock that came from elsewhere."""
        self.last = max(self.last, clock)


def milliseconds(clock: int) -> int:
    """The milliseconds since 1970 in a hybrid logical clock."""
    return clock >> COUNTER_BITS


def covers(vector: Mapping[Origin, int], other: Mapping[Origin, int]) -> bool:
    """Whether `vector` knows all that `other` knows."""
    return all(vector.get(origin, 0) >= sequence for origin, sequence in other.items())


def above(vector: Mapping[Origin, int], other: Mapping[Origin, int]) -> Mapping[Origin, int]:
    """The least vector that knows all of both; `vector` itself if `other` adds nothing."""
    beyond = {origin: n for origin, n in other.items() if n > vector.get(origin, 0)}
    return {**vector, **beyond} if beyond else vector


def vector_to_proto(vector: Mapping[Origin, int]) -> frame_pb2.Vector:
    """The message for a vector, in the order of the origins."""
    return frame_pb2.Vector(
        positions=[
            frame_pb2.Position(
                origin=frame_pb2.Origin(region=origin.region, incarnation=origin.incarnation),
                sequence=sequence,
            )
            for origin, sequence in sorted(vector.items())
        ]
    )


def vector_from_proto(message: frame_pb2.Vector) -> Vector:
    """The vector in a message."""
    return {origin_from_proto(p.origin): p.sequence for p in message.positions}


def origin_from_proto(message: frame_pb2.Origin) -> Origin:
    """The origin in a message."""
    return _origin(message.region, message.incarnation)


@lru_cache(maxsize=4096)
def _origin(region: str, incarnation: int) -> Origin:
    # One object for each, whoever names it: there are few, and each link names all of them.
    return Origin(region, incarnation)
