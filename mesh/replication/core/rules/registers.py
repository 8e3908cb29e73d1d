"""KEEP_BOTH and MAP: a write replaces what its writer had read; concurrent values all stay.

Dotted version vectors (Preguiça et al., "Brief Announcement: Efficient Causality Tracking in
Distributed Storage Systems with Dotted Version Vectors", 2012). Readers are given the value with
the latest stamp, and may ask for the others.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator

from mesh.replication.core.clocks import Origin
from mesh.replication.core.errors import ChainBroken
from mesh.replication.core.rules.dots import Dot, Dotted, Read, delta, has_seen, read_dots
from mesh.replication.core.rules.rule import Decision, Stamp, State, Unseen, Version
from mesh.replication.core.wire import (
    LENGTH,
    VARINT,
    read_piece,
    read_varint,
    varint,
)

Entry = tuple[int, bytes]
"""A value with the clock of its change."""


class Registers(Dotted):
    """Values by name, each under the dot and the clock of its writing."""

    @abstractmethod
    def name(self, value: bytes) -> bytes:
        """What a value stands under: values of one name replace one another."""

    def entry(self, stamp: Stamp, written: bytes) -> Entry:
        return stamp.clock, written

    def encode_entry(self, entry: Entry) -> bytes:
        return varint(entry[0]) + entry[1]

    def decode_entry(self, data: bytes) -> Entry:
        clock, at = read_varint(data, 0)
        return clock, data[at:]

    def values(self, state: State) -> Iterable[bytes]:
        live: dict[Dot, Entry] = state[0]
        return [value for _, value in live.values()]

    def stamps(self, state: State) -> Iterable[Stamp]:
        live: dict[Dot, Entry] = state[0]
        return [Stamp(clock, dot[0], dot[1]) for dot, (clock, _) in live.items()]

    def versions(self, state: State) -> dict[bytes, list[Version]]:
        """By name, in their order, the values that stand: the one that reads give comes first."""
        live: dict[Dot, Entry] = state[0]
        found: dict[bytes, list[tuple[Entry, Dot]]] = {}
        for dot, entry in live.items():
            found.setdefault(self.name(entry[1]), []).append((entry, dot))
        return {
            # Two values of one origin and clock differ in their dots.
            name: [
                Version(Stamp(entry[0], dot[0], dot[1]), entry[1])
                for entry, dot in sorted(
                    found[name], key=lambda each: (each[0][0], each[1]), reverse=True
                )
            ]
            for name in sorted(found)
        }

    def render(self, number: int, state: State) -> bytes:
        return b"".join(standing[0].value for standing in self.versions(state).values())

    def decisions(
        self, state: State, change: State, stamp: Stamp, unseen: Unseen
    ) -> Iterator[Decision]:
        for dot, (clock, value) in change[0].items():
            if has_seen(state, dot):
                continue
            new = (clock, dot, value)
            for old_dot, (old_clock, old_value) in state[0].items():
                if old_value == value or has_seen(change, old_dot):
                    continue
                if self.name(old_value) == self.name(value):
                    one, other = sorted((new, (old_clock, old_dot, old_value)), reverse=True)
                    yield _version(*one), _version(*other)

    def _replaced(self, state: State | None, names: set[bytes], read: Read | None) -> list[Dot]:
        live: dict[Dot, Entry] = state[0] if state else {}
        known = read_dots(live, read)
        return [
            dot for dot, (_, value) in live.items() if dot in known and self.name(value) in names
        ]


class KeepBoth(Registers):
    """One name for all values. An empty value is a cleared field, and stands against others."""

    def name(self, value: bytes) -> bytes:
        return b""

    def delta(
        self, state: State | None, origin: Origin, value: bytes, read: Read | None = None
    ) -> bytes:
        """The delta by which an origin replaces what it has read: all that it sees, or `read`."""
        return delta(state, origin, [value], self._replaced(state, {b""}, read))


class Map(Registers):
    """The map's keys are the names; a value is the encoding of one entry of the map, tag included.

    Of concurrent values of one key the one with the latest stamp is read, and a value wins over a
    concurrent removal of its key.
    """

    def entry(self, stamp: Stamp, written: bytes) -> Entry:
        if not written:
            raise ChainBroken("a cell is damaged: an entry of a map is empty")
        return super().entry(stamp, written)

    def name(self, value: bytes) -> bytes:
        # What is inside was not looked at when it came (see `wire.check_field`): an entry whose
        # key cannot be found stands under all of its bytes.
        try:
            return _key(value)
        except ChainBroken:
            return value

    def delta(
        self,
        state: State | None,
        origin: Origin,
        put: Iterable[bytes] = (),
        remove: Iterable[bytes] = (),
        read: Read | None = None,
    ) -> bytes:
        """The delta by which an origin puts entries, and removes the keys of others.

        Both replace what the writer has read: all that it sees, or `read`.
        """
        written = sorted(put)
        names = {self.name(value) for value in (*written, *remove)}
        return delta(state, origin, written, self._replaced(state, names, read))


def _version(clock: int, dot: Dot, value: bytes) -> Version:
    return Version(Stamp(clock, dot[0], dot[1]), value)


def _key(entry: bytes) -> bytes:
    """A map entry's key: the encoding of its field 1, empty for the default value."""
    _, at = read_varint(entry, 0)
    content, _ = read_piece(entry, at)
    at = 0
    while at < len(content):
        start = at
        tag, at = read_varint(content, at)
        if tag & 7 == LENGTH:
            payload, at = read_piece(content, at)
            empty = not payload
        elif tag & 7 == VARINT:
            number, at = read_varint(content, at)
            empty = not number
        else:
            at += 4 if tag & 7 == 5 else 8
            empty = not any(content[start + 1 : at])
        if tag >> 3 == 1:
            return b"" if empty else content[start:at]
    return b""
