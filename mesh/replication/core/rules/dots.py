"""What SET, KEEP_BOTH and MAP have in common: entries with dots.

A delta-state ORSWOT (Bieniusa et al., "An Optimized Conflict-free Replicated Set", 2012; Almeida et
al., "Delta State Replicated Data Types", 2018): each entry that is written has a dot of its own,
numbered by origin and cell, and the cell knows which dots it has seen, as a vector, and the dots
beyond it; under causal delivery there are none. An entry that one side has seen and does not hold
was removed there; one that it has not seen is new.

A delta: how many entries are written and the number of the first one's dot, the entries, then the
dots that the writer had read and that go.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Container, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from mesh.replication.core.clocks import Origin
from mesh.replication.core.rules.rule import Rule, Stamp, State
from mesh.replication.core.wire import piece, read_piece, read_text, read_varint, text, varint

Dot = tuple[str, int, int]
"""One written entry: region, incarnation, and the how manieth of that origin in this cell."""


class Dotted(Rule):
    """({dot: entry}, {origin: highest}, dots): entries that live, and all that was seen."""

    @abstractmethod
    def entry(self, stamp: Stamp, written: bytes) -> Any:
        """The entry for what a delta writes. Raises `ChainBroken` if that cannot be."""

    @abstractmethod
    def encode_entry(self, entry: Any) -> bytes:
        """An entry's canonical bytes."""

    @abstractmethod
    def decode_entry(self, data: bytes) -> Any:
        """The entry of canonical bytes."""

    def from_delta(self, stamp: Stamp, delta: bytes) -> State:
        count, at = read_varint(delta, 0)
        first, at = read_varint(delta, at)
        live: dict[Dot, Any] = {}
        for number in range(first, first + count):
            written, at = read_piece(delta, at)
            live[(stamp.region, stamp.incarnation, number)] = self.entry(stamp, written)
        gone = set()
        while at < len(delta):
            dot, at = read_dot(delta, at)
            gone.add(dot)
        return (live, *_compact({}, gone | live.keys()))

    def join(self, one: State, other: State) -> State:
        live, seen, beyond = one
        other_live, other_seen, other_beyond = other
        kept = {
            dot: entry
            for dot, entry in live.items()
            if dot in other_live or not has_seen(other, dot)
        }
        new = {
            dot: entry
            for dot, entry in other_live.items()
            if dot not in live and not has_seen(one, dot)
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
        for dot, entry in sorted(live.items()):
            parts += (write_dot(dot), piece(self.encode_entry(entry)))
        parts.append(varint(len(seen)))
        parts += (write_dot((*origin, count)) for origin, count in sorted(seen.items()))
        parts += (write_dot(dot) for dot in sorted(beyond))
        return b"".join(parts)

    def decode(self, data: bytes) -> State:
        live: dict[Dot, Any] = {}
        count, at = read_varint(data, 0)
        for _ in range(count):
            dot, at = read_dot(data, at)
            raw, at = read_piece(data, at)
            live[dot] = self.decode_entry(raw)
        seen = {}
        count, at = read_varint(data, at)
        for _ in range(count):
            dot, at = read_dot(data, at)
            seen[Origin(dot[0], dot[1])] = dot[2]
        beyond = set()
        while at < len(data):
            dot, at = read_dot(data, at)
            beyond.add(dot)
        return live, seen, frozenset(beyond)


def delta(
    state: State | None, origin: Origin, written: Sequence[bytes], gone: Iterable[Dot]
) -> bytes:
    """The delta by which an origin writes entries, and removes dots, of the state that it sees."""
    seen: dict[Origin, int] = state[1] if state else {}
    return b"".join(
        (
            varint(len(written)),
            varint(seen.get(origin, 0) + 1),
            *map(piece, written),
            *map(write_dot, sorted(gone)),
        )
    )


def has_seen(state: State, dot: Dot) -> bool:
    """Whether a dot was ever seen, whether or not its entry still lives."""
    return dot in state[2] or dot[2] <= state[1].get(dot[:2], 0)


Read = Mapping[Origin, int]
"""How much of a cell somebody had read: of each origin, the dots up to this number."""


def read_dots(live: Iterable[Dot], read: Read | None) -> Container[Dot]:
    """Those of the dots that somebody had read; None is all."""
    if read is None:
        return set(live)
    return {dot for dot in live if dot[2] <= read.get(Origin(dot[0], dot[1]), 0)}


def write_dot(dot: Dot) -> bytes:
    """The bytes of a dot."""
    return text(dot[0]) + varint(dot[1]) + varint(dot[2])


def read_dot(data: bytes, at: int) -> tuple[Dot, int]:
    """The dot at a position, and the position after it."""
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
