"""Merge rules: how concurrent changes of one cell become one value.

A cell's state is an element of a join-semilattice: `join` is commutative, associative and
idempotent (Shapiro et al., "Conflict-free Replicated Data Types", 2011). A change carries a delta,
which with the change's stamp becomes a small state of its own, so that applying is joining. All
that a rule needs is in its deltas: no schema is asked, and a region merges fields that it does not
know.

States are never changed in place. Their forms, by rule:

LATEST   (clock, region, incarnation, value): the highest wins
MAX      (rank, value): the highest wins; ranks compare as bytes
COUNTER  {origin: (incremented, decremented)}: running totals, the highest of each
SET      ({dot: element}, {origin: highest}, dots): additions win over concurrent removals

A value is the canonical encoding of the field inside its parent message, tag included; the empty
value is a cleared field. A SET is a delta-state ORSWOT (Bieniusa et al., "An Optimized
Conflict-free Replicated Set", 2012; Almeida et al., "Delta State Replicated Data Types", 2018):
its dots are numbered by origin and cell, and what was seen of them is a vector, and the dots beyond
it; under causal delivery there are none.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Any, Final, NamedTuple

from mesh.replication.core.clocks import Origin
from mesh.replication.core.errors import ChainBroken
from mesh.replication.core.wire import (
    LENGTH,
    VARINT,
    piece,
    read_piece,
    read_text,
    read_varint,
    tag,
    text,
    varint,
)

LATEST, MAX, COUNTER, SET = 1, 3, 5, 7
"""The rules that this version merges, numbered as in isthmus.options.v1.Merge.

MESSAGE is none: it shows in the paths of its fields' cells.
"""

State = Any
"""A cell's state; its form is its rule's business."""


class Stamp(NamedTuple):
    """What orders changes: each has a stamp of its own."""

    clock: int
    region: str
    incarnation: int


class Rule(ABC):
    """One merge rule."""

    @abstractmethod
    def from_delta(self, stamp: Stamp, delta: bytes) -> State:
        """The state that a change's delta alone stands for."""

    @abstractmethod
    def values(self, state: State) -> Iterable[bytes]:
        """The encoded values in a state, each to be well formed for it to be rendered."""

    @abstractmethod
    def join(self, one: State, other: State) -> State:
        """The least state above both. Returns `one` itself if `other` adds nothing."""

    @abstractmethod
    def encode(self, state: State) -> bytes:
        """The canonical bytes of a state: equal states have equal bytes."""

    @abstractmethod
    def decode(self, data: bytes) -> State:
        """The state of canonical bytes."""

    @abstractmethod
    def render(self, number: int, state: State) -> bytes:
        """The state as field `number` of a serialized message; empty if it is not set."""


class Latest(Rule):
    """The last writer wins, by hybrid logical clock; ties by origin. Its delta is the value."""

    def from_delta(self, stamp: Stamp, delta: bytes) -> State:
        return (*stamp, delta)

    def values(self, state: State) -> Iterable[bytes]:
        return (state[3],)

    def join(self, one: State, other: State) -> State:
        return other if other > one else one

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


class Max(Rule):
    """The greatest value wins, by its rank; ties by its bytes. Its delta is rank and value."""

    def from_delta(self, stamp: Stamp, delta: bytes) -> State:
        return self.decode(delta)

    def values(self, state: State) -> Iterable[bytes]:
        return (state[1],)

    def join(self, one: State, other: State) -> State:
        return other if other > one else one

    def encode(self, state: State) -> bytes:
        value: bytes = state[1]
        return piece(state[0]) + value

    def decode(self, data: bytes) -> State:
        rank, at = read_piece(data, 0)
        return rank, data[at:]

    def render(self, number: int, state: State) -> bytes:
        value: bytes = state[1]
        return value

    @staticmethod
    def delta(rank: bytes, value: bytes) -> bytes:
        """The delta that offers a value."""
        return piece(rank) + value


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


class Set(Rule):
    """Additions win over concurrent removals.

    Its delta: how many elements are added and the number of the first one's dot, the elements, then
    the dots that the writer had seen and that go. An element is its encoding as one entry of the
    repeated field, tag included.
    """

    def from_delta(self, stamp: Stamp, delta: bytes) -> State:
        count, at = read_varint(delta, 0)
        first, at = read_varint(delta, at)
        live: dict[Dot, bytes] = {}
        for number in range(first, first + count):
            element, at = read_piece(delta, at)
            if not element:
                raise ChainBroken("a cell is damaged: an element of a set is empty")
            live[(stamp.region, stamp.incarnation, number)] = element
        gone = set()
        while at < len(delta):
            dot, at = _read_dot(delta, at)
            gone.add(dot)
        return (live, *_compact({}, gone | live.keys()))

    def values(self, state: State) -> Iterable[bytes]:
        live: dict[Dot, bytes] = state[0]
        return live.values()

    def join(self, one: State, other: State) -> State:
        live, seen, beyond = one
        other_live, other_seen, other_beyond = other
        kept = {
            dot: element
            for dot, element in live.items()
            if dot in other_live
            or not (dot in other_beyond or dot[2] <= other_seen.get(dot[:2], 0))
        }
        new = {
            dot: element
            for dot, element in other_live.items()
            if dot not in live and not (dot in beyond or dot[2] <= seen.get(dot[:2], 0))
        }
        vector = dict(seen)
        for origin, count in other_seen.items():
            if count > vector.get(origin, 0):
                vector[origin] = count
        vector, dots = _compact(vector, beyond | other_beyond)
        if not new and len(kept) == len(live) and vector == seen and dots == beyond:
            return one
        return kept | new, vector, dots

    def encode(self, state: State) -> bytes:
        live, seen, beyond = state
        parts = [varint(len(live))]
        for dot, element in sorted(live.items()):
            parts += (_dot(dot), piece(element))
        parts.append(varint(len(seen)))
        parts += (_dot((*origin, count)) for origin, count in sorted(seen.items()))
        parts += (_dot(dot) for dot in sorted(beyond))
        return b"".join(parts)

    def decode(self, data: bytes) -> State:
        live: dict[Dot, bytes] = {}
        count, at = read_varint(data, 0)
        for _ in range(count):
            dot, at = _read_dot(data, at)
            live[dot], at = read_piece(data, at)
        seen = {}
        count, at = read_varint(data, at)
        for _ in range(count):
            dot, at = _read_dot(data, at)
            seen[Origin(dot[0], dot[1])] = dot[2]
        beyond = set()
        while at < len(data):
            dot, at = _read_dot(data, at)
            beyond.add(dot)
        return live, seen, frozenset(beyond)

    def render(self, number: int, state: State) -> bytes:
        by_value = sorted((_payload(element), element) for element in self.elements(state))
        return b"".join(element for _, element in by_value)

    @staticmethod
    def elements(state: State) -> set[bytes]:
        """The encodings of what the set holds."""
        return set(state[0].values())

    @staticmethod
    def delta(
        state: State | None, origin: Origin, add: Iterable[bytes] = (), remove: Iterable[bytes] = ()
    ) -> bytes:
        """The delta by which an origin adds and removes elements of the set that it sees.

        What is added anew gets a new dot in place of its old ones, so that it also wins over a
        concurrent removal.
        """
        live: dict[Dot, bytes] = state[0] if state else {}
        seen: dict[Origin, int] = state[1] if state else {}
        added = sorted(set(add))
        replaced = set(added).union(remove)
        gone = sorted(dot for dot, element in live.items() if element in replaced)
        return b"".join(
            (
                varint(len(added)),
                varint(seen.get(origin, 0) + 1),
                *map(piece, added),
                *map(_dot, gone),
            )
        )


Dot = tuple[str, int, int]
"""One addition to a SET: region, incarnation, and the how manieth of that origin in this cell."""


def _dot(dot: Dot) -> bytes:
    return text(dot[0]) + varint(dot[1]) + varint(dot[2])


def _read_dot(data: bytes, at: int) -> tuple[Dot, int]:
    region, at = read_text(data, at)
    incarnation, at = read_varint(data, at)
    count, at = read_varint(data, at)
    return (region, incarnation, count), at


def _compact(
    vector: dict[Origin, int], dots: AbstractSet[Dot]
) -> tuple[dict[Origin, int], frozenset[Dot]]:
    """Moves the dots that follow the vector without a gap into the vector."""
    beyond = set()
    for dot in sorted(dots):
        origin = Origin(dot[0], dot[1])
        known = vector.get(origin, 0)
        if dot[2] == known + 1:
            vector[origin] = dot[2]
        elif dot[2] > known:
            beyond.add(dot)
    return vector, frozenset(beyond)


def _payload(element: bytes) -> bytes:
    """An element without its tag and length, so that sets read in the order of their values."""
    key, at = read_varint(element, 0)
    if key & 7 == LENGTH:
        return read_piece(element, at)[0]
    return element[at:]


latest, maximum, counter, orset = Latest(), Max(), Counter(), Set()

RULES: Final[Mapping[int, Rule]] = {LATEST: latest, MAX: maximum, COUNTER: counter, SET: orset}
"""The rules by number. A frame is refused when it is parsed if it uses any other."""
