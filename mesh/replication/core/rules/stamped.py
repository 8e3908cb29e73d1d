"""LATEST and FIRST: the stamp decides. Their delta is the value."""

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
from mesh.replication.core.wire import read_text, read_varint, text, varint


class Stamped(Rule):
    """One value and who wrote it, as (clock, region, incarnation, value)."""

    @abstractmethod
    def join(self, one: State, other: State) -> State:
        """The one of two that wins."""

    def from_delta(self, stamp: Stamp, delta: bytes) -> State:
        return (*stamp, delta)

    def values(self, state: State) -> Iterable[bytes]:
        return (state[3],)

    def encode(self, state: State) -> bytes:
        value: bytes = state[3]
        return varint(state[0]) + text(state[1]) + varint(state[2]) + value

    def decode(self, data: bytes) -> State:
        clock, at = read_varint(data, 0)
        region, at = read_text(data, at)
        incarnation, at = read_varint(data, at)
        return clock, region, incarnation, data[at:]

    def render(self, number: int, state: State) -> bytes:
        value: bytes = state[3]
        return value

    def stamps(self, state: State) -> Iterable[Stamp]:
        return (Stamp(*state[:3]),)

    def decisions(
        self, state: State, change: State, stamp: Stamp, unseen: Unseen
    ) -> Iterable[Decision]:
        if state[3] == change[3] or not unseen_by(unseen, state[:3]):
            return ()
        mine = Version(Stamp(*state[:3]), state[3])
        other = Version(stamp, change[3])
        return ((mine, other),) if self.join(state, change) is state else ((other, mine),)


class Latest(Stamped):
    """The last writer wins, by hybrid logical clock; ties by origin. An empty value clears."""

    def join(self, one: State, other: State) -> State:
        return other if other > one else one


class First(Stamped):
    """The first writer wins, by hybrid logical clock; ties by origin.

    Who sees a value writes no other, and there is no clearing: so what is not concurrent with the
    first value never stands against it.
    """

    def join(self, one: State, other: State) -> State:
        return other if other < one else one
