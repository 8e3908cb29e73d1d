"""Shapes: which cells a change covers, and how what it brings for them lies in one piece of bytes.

Most changes of a group cover the same few sets of cells, so a frame names each set once, and of
each change holds one piece: its content. Under a *plain* shape, of LATEST fields of the entity
itself, that is the message of these fields, each in its place; a field that is missing is cleared.
Under any other shape it is the deltas, each with its length before it.

A plain content is told apart into values only when somebody needs them. Its framing is checked
when it arrives; what else is in it than its shape says is passed over, in every region alike.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache

from mesh.replication.core.cells import LATEST
from mesh.replication.core.errors import ChainBroken
from mesh.replication.core.rules.rule import State
from mesh.replication.core.wire import (
    FIXED32,
    FIXED64,
    LENGTH,
    VARINT,
    numbers,
    piece,
    read_piece,
    read_varint,
)

CellKey = tuple[bytes, int]
"""A cell: the path of field numbers as consecutive varints, and its merge rule.

The rule is below zero in a parked cell: one under a rule that this version does not know.
"""

Shape = tuple[CellKey, ...]
"""The cells that a change covers, in the order of their field numbers."""


DEEPEST = 8
"""How many changes' contents lie over one another before they are told apart for good."""


def order(cell: CellKey) -> tuple[tuple[int, ...], int]:
    """What sorts cells: their field numbers, then their rules."""
    return numbers(cell[0]), cell[1]


def shape_of(cells: Iterable[CellKey]) -> Shape:
    """The shape of some cells; equal ones are one object, as long as they are in use."""
    return interned(tuple(sorted(cells, key=order)))


@lru_cache(maxsize=4096)
def interned(shape: Shape) -> Shape:
    """One object for all equal shapes, so that comparing them costs nothing."""
    return shape


@lru_cache(maxsize=4096)
def places(shape: Shape) -> Mapping[int, int] | None:
    """Of a plain shape the place of each field number in it; None if it is not plain."""
    found = {}
    for place, (path, rule) in enumerate(shape):
        way = numbers(path)
        if rule != LATEST or len(way) != 1:
            return None
        found[way[0]] = place
    return found if list(found) == sorted(found) and len(found) == len(shape) else None


def pack(shape: Shape, deltas: Iterable[bytes]) -> bytes:
    """The content of a change that brings these deltas, in the order of its shape."""
    return b"".join(deltas) if places(shape) is not None else b"".join(map(piece, deltas))


def split(shape: Shape, content: bytes) -> Sequence[bytes]:
    """The deltas in a content, in the order of its shape.

    Raises `ChainBroken` for a damaged one of a shape that is not plain.
    """
    plain = places(shape)
    if plain is not None:
        return _fields(plain, content)
    found = []
    at = 0
    for _ in shape:
        delta, at = read_piece(content, at)
        found.append(delta)
    if at != len(content):
        raise ChainBroken("a cell is damaged: there is more than its shape has room for")
    return found


def _fields(plain: Mapping[int, int], content: bytes) -> list[bytes]:
    values = [b""] * len(plain)
    at, size = 0, len(content)
    try:
        while at < size:
            start = at
            key = content[at]
            at += 1
            if key > 127:
                key, at = read_varint(content, start)
            kind = key & 7
            if kind == LENGTH:
                length = content[at]
                at += 1
                if length > 127:
                    length, at = read_varint(content, at - 1)
                at += length
            elif kind == VARINT:
                while content[at] > 127:
                    at += 1
                at += 1
            elif kind in (FIXED64, FIXED32):
                at += 8 if kind == FIXED64 else 4
            else:
                break
            place = plain.get(key >> 3)
            if place is not None and at <= size:
                values[place] += content[start:at]
    except (IndexError, ChainBroken):
        pass  # as far as it can be read, like every region that reads it
    return values


def tidy(shape: Shape, content: bytes) -> bytes:
    """A plain content without what its shape does not name: itself, if it came from anyone honest.

    Told without telling its values apart, which takes almost twice as long.
    """
    # The walk is that of `_fields` once more: as a generator for both it cost half as much again
    # there, and most of the time that is saved here.
    plain = places(shape)
    if plain is None:
        return content
    at, size, last = 0, len(content), 0
    try:
        while at < size:
            key = content[at]
            at += 1
            if key > 127:
                key, at = read_varint(content, at - 1)
            kind, number = key & 7, key >> 3
            if number < last or number not in plain:
                break
            last = number
            if kind == LENGTH:
                length = content[at]
                at += 1
                if length > 127:
                    length, at = read_varint(content, at - 1)
                at += length
            elif kind == VARINT:
                while content[at] > 127:
                    at += 1
                at += 1
            elif kind in (FIXED64, FIXED32):
                at += 8 if kind == FIXED64 else 4
            else:
                break
        else:
            if at == size:
                return content
    except (IndexError, ChainBroken):
        pass  # as in `split`
    return b"".join(_fields(plain, content))


class Packed(Mapping[CellKey, State]):
    """The cells of one change with a plain shape, over those of older ones: told apart when read.

    `changed` is the change's stamp, and who made it. All that is `below` is older, and hidden where
    the shape covers it; `depth` counts it.
    """

    __slots__ = ("below", "changed", "content", "depth", "shape")

    def __init__(
        self,
        shape: Shape,
        changed: tuple[int, str, int, str],
        content: bytes,
        below: Packed | None = None,
    ) -> None:
        self.shape = shape
        self.changed = changed
        self.content = content
        self.below = below
        self.depth: int = 0 if below is None else below.depth + 1

    def over(self, older: Mapping[CellKey, State]) -> Mapping[CellKey, State] | None:
        """The same over older cells, which are left out as far as they are hidden.

        None if they are to be merged cell by cell.
        """
        if not isinstance(older, Packed):
            return self if all(key in self.shape for key in older) else None
        below: Packed | None = older
        while below is not None and (below.shape is self.shape or covers(self.shape, below.shape)):
            below = below.below
        if below is None:
            return self
        over = Packed(self.shape, self.changed, self.content, below)
        return over if over.depth <= DEEPEST else _stacked(_not_hidden(over.layers()))

    def layers(self) -> list[Packed]:
        """Itself and all that is below, from the newest on."""
        layers = [self]
        while layers[-1].below is not None:
            layers.append(layers[-1].below)
        return layers

    def cells(self) -> dict[CellKey, State]:
        """The cells, each with its state."""
        found: dict[CellKey, State] = {}
        for layer in reversed(self.layers()):
            clock, region, incarnation, _ = layer.changed
            for key, value in zip(layer.shape, split(layer.shape, layer.content), strict=True):
                found[key] = (clock, region, incarnation, value)
        return found

    def items(self) -> ItemsView[CellKey, State]:
        return self.cells().items()

    def __getitem__(self, key: CellKey) -> State:
        for layer in self.layers():
            if key in layer.shape:
                clock, region, incarnation, _ = layer.changed
                value = split(layer.shape, layer.content)[layer.shape.index(key)]
                return clock, region, incarnation, value
        raise KeyError(key)

    def __iter__(self) -> Iterator[CellKey]:
        return iter(self.shape if self.below is None else self.cells())

    def __len__(self) -> int:
        return len(self.shape if self.below is None else self.cells())

    def __contains__(self, key: object) -> bool:
        return key in self.shape or (self.below is not None and key in self.below)


def merge_layers(one: Packed, other: Packed) -> Mapping[CellKey, State]:
    """The cells of both, of each the newer. Returns `one` itself if `other` adds nothing."""
    mine = one.layers()
    kept = _not_hidden(sorted((*mine, *other.layers()), key=_age, reverse=True))
    own = set(map(id, mine))
    return one if own.issuperset(map(id, kept)) else _stacked(kept)


def _not_hidden(layers: Iterable[Packed]) -> list[Packed]:
    """The layers, newest first, that have a cell which is in none above them."""
    kept: list[Packed] = []
    covered: frozenset[CellKey] = frozenset()
    for layer in layers:
        if not covered.issuperset(layer.shape):
            kept.append(layer)
            covered = covered.union(layer.shape)
    return kept


def _stacked(layers: Sequence[Packed]) -> Mapping[CellKey, State]:
    """Layers upon each other, the newest first; told apart if there are too many of them."""
    below = None
    for layer in reversed(layers):
        same = layer.below is below
        below = layer if same else Packed(layer.shape, layer.changed, layer.content, below)
    assert below is not None  # noqa: S101 # there is at least one layer
    return below.cells() if below.depth > DEEPEST else below


def _age(layer: Packed) -> tuple[object, ...]:
    return layer.changed[:3]  # who made it is not kept of all layers


@lru_cache(maxsize=4096)
def covers(shape: Shape, other: Shape) -> bool:
    """Whether a shape has all cells of another."""
    return set(other) <= set(shape)
