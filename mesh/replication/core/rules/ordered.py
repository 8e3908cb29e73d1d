"""MAX and MIN: the value decides. Their delta is rank and value."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable

from mesh.replication.core.rules.rule import Decision, Rule, Stamp, State, Unseen, Version
from mesh.replication.core.wire import piece, read_piece


class Ordered(Rule):
    """One value and what orders it, as (rank, value); ranks compare as bytes."""

    @abstractmethod
    def join(self, one: State, other: State) -> State:
        """The one of two that wins."""

    def from_delta(self, stamp: Stamp, delta: bytes) -> State:
        return self.decode(delta)

    def values(self, state: State) -> Iterable[bytes]:
        return (state[1],)

    def encode(self, state: State) -> bytes:
        value: bytes = state[1]
        return piece(state[0]) + value

    def decode(self, data: bytes) -> State:
        rank, at = read_piece(data, 0)
        return rank, data[at:]

    def render(self, number: int, state: State) -> bytes:
        value: bytes = state[1]
        return value

    def decisions(
        self, state: State, change: State, stamp: Stamp, unseen: Unseen
    ) -> Iterable[Decision]:
        # Who sees a value offers only what wins over it. So a change that loses is concurrent for
        # certain; of one that wins that is not known here, and it is where the other was written.
        if state == change or self.join(state, change) is change:
            return ()
        return ((Version(None, state[1]), Version(stamp, change[1])),)

    @staticmethod
    def delta(rank: bytes, value: bytes) -> bytes:
        """The delta that offers a value."""
        return piece(rank) + value


class Max(Ordered):
    """The greatest value wins, by its rank; ties by its bytes."""

    def join(self, one: State, other: State) -> State:
        return other if other > one else one


class Min(Ordered):
    """The least value wins, by its rank; ties by its bytes."""

    def join(self, one: State, other: State) -> State:
        return other if other < one else one
