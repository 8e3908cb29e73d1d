"""COUNTER: running totals of each origin."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mesh.replication.core.clocks import Origin
from mesh.replication.core.rules.rule import Rule, Stamp, State
from mesh.replication.core.wire import VARINT, read_text, read_varint, tag, text, varint


class Counter(Rule):
    """Increments and decrements add up. Its delta is the writing origin's two totals."""

    def from_delta(self, stamp: Stamp, delta: bytes) -> State:
        up, at = read_varint(delta, 0)
        down, _ = read_varint(delta, at)
        # No entry and one of zeros are the same; only the former exists.
        return {Origin(stamp.region, stamp.incarnation): (up, down)} if up or down else {}

    def values(self, state: State) -> Iterable[bytes]:
        return ()

    def join(self, one: State, other: State) -> State:
        merged: dict[Origin, tuple[int, int]] | None = None
        for origin, (up, down) in other.items():
            old_up, old_down = one.get(origin, (0, 0))
            if up > old_up or down > old_down:
                if merged is None:
                    merged = dict(one)
                merged[origin] = max(up, old_up), max(down, old_down)
        return one if merged is None else merged

    def encode(self, state: State) -> bytes:
        return b"".join(
            text(origin.region) + varint(origin.incarnation) + varint(up) + varint(down)
            for origin, (up, down) in sorted(state.items())
        )

    def decode(self, data: bytes) -> State:
        state = {}
        at = 0
        while at < len(data):
            region, at = read_text(data, at)
            incarnation, at = read_varint(data, at)
            up, at = read_varint(data, at)
            down, at = read_varint(data, at)
            state[Origin(region, incarnation)] = up, down
        return state

    def render(self, number: int, state: State) -> bytes:
        total = self.total(state)
        return tag(number, VARINT) + varint(total) if total else b""

    @staticmethod
    def total(state: Mapping[Origin, tuple[int, int]]) -> int:
        """The counter's value."""
        return sum(up - down for up, down in state.values())

    @staticmethod
    def delta(state: Mapping[Origin, tuple[int, int]] | None, origin: Origin, by: int) -> bytes:
        """The delta by which an origin adds to what it sees."""
        up, down = (state or {}).get(origin, (0, 0))
        return varint(up + max(by, 0)) + varint(down + max(-by, 0))
