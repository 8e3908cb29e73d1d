"""MAX and MIN: the value decides. Their delta is rank and value."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable

from mesh.replication.core.rules.rule import (
    Decision,
    Rule,
    Stamp,
    State,
    Unseen,
    Version,
    unseen_by,
)
from mesh.replication.core.wire import piece, read_piece, read_text, read_varint, text, varint


class Ordered(Rule):
    """One value, what orders it, and who offered it first, as (rank, value, stamp).

    Ranks compare as bytes.
    """

    @abstractmethod
    def wins(self, one: State, other: State) -> bool:
        """Whether a value that is offered wins over the one that is there."""

    def join(self, one: State, other: State) -> State:
        if one[:2] == other[:2]:
            return other if other[2] < one[2] else one
        return other if self.wins(one, other) else one

    def from_delta(self, stamp: Stamp, delta: bytes) -> State:
        rank, at = read_piece(delta, 0)
        return rank, delta[at:], stamp

    def values(self, state: State) -> Iterable[bytes]:
        return (state[1],)

    def encode(self, state: State) -> bytes:
        value: bytes = state[1]
        clock, region, incarnation = state[2]
        stamp = varint(clock) + text(region) + varint(incarnation)
        return stamp + piece(state[0]) + value

    def decode(self, data: bytes) -> State:
        clock, at = read_varint(data, 0)
        region, at = read_text(data, at)
        incarnation, at = read_varint(data, at)
        rank, at = read_piece(data, at)
        return rank, data[at:], Stamp(clock, region, incarnation)

    def render(self, number: int, state: State) -> bytes:
        value: bytes = state[1]
        return value

    def stamps(self, state: State) -> Iterable[Stamp]:
        return (state[2],)

    def decisions(
        self, state: State, change: State, stamp: Stamp, unseen: Unseen
    ) -> Iterable[Decision]:
        if state[1] == change[1] or not unseen_by(unseen, state[2]):
            return ()
        mine, other = Version(state[2], state[1]), Version(stamp, change[1])
        return ((other, mine),) if self.wins(state, change) else ((mine, other),)

    @staticmethod
    def delta(rank: bytes, value: bytes) -> bytes:
        """The delta that offers a value."""
        return piece(rank) + value


class Max(Ordered):
    """The greatest value wins, by its rank; ties by its bytes."""

    def wins(self, one: State, other: State) -> bool:
        greater: bool = other[:2] > one[:2]
        return greater


class Min(Ordered):
    """The least value wins, by its rank; ties by its bytes."""

    def wins(self, one: State, other: State) -> bool:
        less: bool = other[:2] < one[:2]
        return less
