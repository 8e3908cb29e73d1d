"""Cells under a rule that this version does not know: nothing is merged, everything is kept.

A parked cell is the set of what came for it: deltas by the stamp of their change, and states that
a version which knew the rule had made of earlier ones. Joining is the union, which is a semilattice
whatever the rule is. A version that knows the rule makes the same of it as if it had been there all
the time, for what it joins it may join in any order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from mesh.replication.core.errors import ChainBroken
from mesh.replication.core.rules.rule import Rule, Stamp, State
from mesh.replication.core.wire import (
    check_field,
    piece,
    read_piece,
    read_text,
    read_varint,
    text,
    varint,
)


class Kept(NamedTuple):
    """A parked cell's state: canonical bytes of states, and deltas by stamp."""

    states: frozenset[bytes] = frozenset()
    deltas: Mapping[Stamp, bytes] = {}


class Parked(Rule):
    """What stands in for a rule that is not known."""

    def from_delta(self, stamp: Stamp, delta: bytes) -> State:
        return Kept(deltas={stamp: delta})

    def values(self, state: State) -> Iterable[bytes]:
        return ()

    def join(self, one: State, other: State) -> State:
        states, deltas = one.states | other.states, {**one.deltas, **other.deltas}
        if len(states) == len(one.states) and len(deltas) == len(one.deltas):
            return one
        return Kept(states, deltas)

    def encode(self, state: State) -> bytes:
        parts = [varint(len(state.states)), *map(piece, sorted(state.states))]
        for stamp, delta in sorted(state.deltas.items()):
            parts += (varint(stamp.clock), text(stamp.region), varint(stamp.incarnation))
            parts.append(piece(delta))
        return b"".join(parts)

    def decode(self, data: bytes) -> State:
        count, at = read_varint(data, 0)
        states = set()
        for _ in range(count):
            state, at = read_piece(data, at)
            states.add(state)
        deltas = {}
        while at < len(data):
            clock, at = read_varint(data, at)
            region, at = read_text(data, at)
            incarnation, at = read_varint(data, at)
            deltas[Stamp(clock, region, incarnation)], at = read_piece(data, at)
        return Kept(frozenset(states), deltas)

    def render(self, number: int, state: State) -> bytes:
        return b""

    def stamps(self, state: State) -> Iterable[Stamp]:
        return tuple(state.deltas)


def fold(kept: Kept, rule: Rule, field: int) -> tuple[State | None, Kept]:
    """What a rule makes of a parked cell of a field, and what of it even that rule cannot read."""
    folded: State | None = None
    states, deltas = set(), {}
    for state in sorted(kept.states):
        try:
            folded = _joined(rule, folded, rule.decode(state), field)
        except ChainBroken:
            states.add(state)
    for stamp, delta in sorted(kept.deltas.items()):
        try:
            folded = _joined(rule, folded, rule.from_delta(stamp, delta), field)
        except ChainBroken:
            deltas[stamp] = delta
    return folded, Kept(frozenset(states), deltas)


def _joined(rule: Rule, folded: State | None, state: State, field: int) -> State:
    for value in rule.values(state):
        check_field(value, field)
    return state if folded is None else rule.join(folded, state)
