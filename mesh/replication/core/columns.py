"""The changes of a frame or of a write, by columns: entry i of each belongs to change i."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain, repeat
from typing import NamedTuple

from mesh.replication.core.cells import Stamp
from mesh.replication.core.clocks import Origin
from mesh.replication.core.entities import Change, EntityKey
from mesh.replication.core.shapes import Shape


class Columns(NamedTuple):
    """What an origin changed; `Change` says what each column holds."""

    entities: Sequence[EntityKey]
    generations: Sequence[int]
    kinds: Sequence[int]
    clocks: Sequence[int]
    actors: Sequence[str]
    traces: Sequence[str]
    request_ids: Sequence[str]
    writes_left: Sequence[int]
    shapes: Sequence[Shape]
    contents: Sequence[bytes]

    def change(self, at: int, origin: Origin) -> Change:
        """One of the changes."""
        stamp = Stamp(self.clocks[at], origin.region, origin.incarnation)
        return Change(
            self.entities[at],
            self.generations[at],
            self.kinds[at],
            stamp,
            self.actors[at],
            self.traces[at],
            self.request_ids[at],
            self.writes_left[at],
            self.shapes[at],
            self.contents[at],
        )

    def changes(self, origin: Origin) -> list[Change]:
        """The same, change by change."""
        stamps = map(Stamp, self.clocks, repeat(origin.region), repeat(origin.incarnation))
        return list(
            map(
                Change,
                self.entities,
                self.generations,
                self.kinds,
                stamps,
                self.actors,
                self.traces,
                self.request_ids,
                self.writes_left,
                self.shapes,
                self.contents,
            )
        )


def joined(all_columns: Sequence[Columns]) -> Columns:
    """Several, one after the other."""
    if len(all_columns) == 1:
        return all_columns[0]
    if not all_columns:
        return Columns(*([()] * len(Columns._fields)))
    return Columns(*(list(chain.from_iterable(each)) for each in zip(*all_columns, strict=True)))


def of_changes(changes: Iterable[Change]) -> Columns:
    """The columns of one origin's changes."""
    entities, generations, kinds, stamps, *others = zip(*changes, strict=True)
    return Columns(entities, generations, kinds, [stamp[0] for stamp in stamps], *others)
