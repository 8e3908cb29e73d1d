"""SET: additions win over concurrent removals."""

from __future__ import annotations

from collections.abc import Iterable

from mesh.replication.core.clocks import Origin
from mesh.replication.core.errors import ChainBroken
from mesh.replication.core.rules.dots import Dot, Dotted, Read, delta, read_dots
from mesh.replication.core.rules.rule import Stamp, State
from mesh.replication.core.wire import LENGTH, read_piece, read_varint


class Set(Dotted):
    """An entry is an element: its encoding as one entry of the repeated field, tag included."""

    def entry(self, stamp: Stamp, written: bytes) -> bytes:
        if not written:
            raise ChainBroken("a cell is damaged: an element of a set is empty")
        return written

    def encode_entry(self, entry: bytes) -> bytes:
        return entry

    def decode_entry(self, data: bytes) -> bytes:
        return data

    def values(self, state: State) -> Iterable[bytes]:
        live: dict[Dot, bytes] = state[0]
        return live.values()

    def render(self, number: int, state: State) -> bytes:
        by_value = sorted((_payload(element), element) for element in self.elements(state))
        return b"".join(element for _, element in by_value)

    @staticmethod
    def elements(state: State) -> set[bytes]:
        """The encodings of what the set holds."""
        return set(state[0].values())

    @staticmethod
    def delta(
        state: State | None,
        origin: Origin,
        add: Iterable[bytes] = (),
        remove: Iterable[bytes] = (),
        read: Read | None = None,
    ) -> bytes:
        """The delta by which an origin adds and removes elements of the set that it sees.

        What is added anew gets a new dot in place of its old ones, so that it also wins over a
        concurrent removal. Of what is removed, `read` is what the remover had read, if not all.
        """
        live: dict[Dot, bytes] = state[0] if state else {}
        added = sorted(set(add))
        readded, removed = set(added), set(remove)
        known = read_dots(live, read)
        gone = [
            dot
            for dot, element in live.items()
            if element in readded or (element in removed and dot in known)
        ]
        return delta(state, origin, added, gone)


def _payload(element: bytes) -> bytes:
    """An element without its tag and length, so that sets read in the order of their values."""
    key, at = read_varint(element, 0)
    if key & 7 == LENGTH:
        return read_piece(element, at)[0]
    return element[at:]
