"""A disk that tells what was written from what was synced, and a group's store on it.

The store is a log of transactions, as SQLite's write-ahead log is: a power cut keeps what was
synced and any part of the rest, in order; a transaction that is cut through is void, as its
checksum shows. Recovery is the core's own.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mesh.replication.core import entities
from mesh.replication.core.clocks import Origin, Vector
from mesh.replication.core.entities import EntityKey, EntityState, checksum
from mesh.replication.core.frames import GENESIS, Frame, StoredFrame, parse
from mesh.replication.core.journal import Recovered
from mesh.replication.core.receipts import Receipt, ReceiptKey
from mesh.replication.core.recovery import Position, recover

_OVERHEAD = 64


@dataclass(frozen=True)
class Record:
    """One transaction: frames of a commit, or states of a flush."""

    size: int
    frames: tuple[Frame, ...] = ()
    states: Mapping[EntityKey, bytes] = field(default_factory=dict)
    watermark: Mapping[Origin, int] = field(default_factory=dict)


class Disk:
    """A region's disk."""

    def __init__(self) -> None:
        self.replace([])

    def replace(self, records: Iterable[Record]) -> None:
        """Another disk in its place: a backup, or an empty one."""
        self.records = list(records)
        self.synced = len(self.records)
        self._frames: dict[Origin, list[StoredFrame]] = {}
        self._lasts: dict[Origin, list[int]] = {}
        self._place = 0
        for record in self.records:
            self._index(record)

    def commit(self, frames: Iterable[Frame]) -> None:
        """Writes a commit, unsynced."""
        kept = tuple(frames)
        self.records.append(Record(_OVERHEAD + sum(len(f.body) for f in kept), kept))

    def flush(
        self, states: Mapping[EntityKey, EntityState], watermark: Mapping[Origin, int] | None
    ) -> None:
        """Writes states, unsynced; see `mesh.replication.store.Store.flush`."""
        data = {entity: entities.encode(state) for entity, state in states.items()}
        size = _OVERHEAD + sum(map(len, data.values()))
        self.records.append(Record(size, (), data, dict(watermark or {})))

    def sync(self) -> None:
        """All that was written will survive a power cut; readers see it."""
        for record in self.records[self.synced :]:
            self._index(record)
        self.synced = len(self.records)

    def lose_power(self, kept: float) -> None:
        """Keeps what was synced, and a part of the bytes written since."""
        left = kept * sum(record.size for record in self.records[self.synced :])
        whole = self.synced
        for record in self.records[self.synced :]:
            left -= record.size
            if left < 0:
                break
            whole += 1
        self.replace(self.records[:whole])

    def after(self, origin: Origin, sequence: int, most_bytes: int) -> list[StoredFrame]:
        """See `mesh.replication.store.Store.after`; a few at a time, as if they were large."""
        start = bisect_right(self._lasts.get(origin, []), sequence)
        return self._frames.get(origin, [])[start : start + 3]

    def receipts(self, after: ReceiptKey, most_bytes: int, until_ms: int) -> list[Receipt]:
        """See `mesh.replication.store.Store.receipts`; simulated writes leave none."""
        return []

    def vector(self) -> Vector:
        """How far each origin would be known after a power cut now."""
        return {origin: lasts[-1] for origin, lasts in self._lasts.items()}

    def frames(self, *, synced: bool = False) -> list[Frame]:
        """All frames, or those that are synced, in the order of their commits."""
        records = self.records[: self.synced] if synced else self.records
        return [frame for record in records for frame in record.frames]

    def recover(self) -> Recovered:
        """What a process that opens the disk finds. A process's end is no power cut."""
        self.replace(self.records)
        states: dict[EntityKey, bytes] = {}
        flushed: Vector = {}
        for record in self.records:
            states.update(record.states)
            flushed.update(record.watermark)
        positions = {}
        for origin, frames in self._frames.items():
            mark = flushed.get(origin, 0)
            at = bisect_right(self._lasts[origin], mark)
            head = frames[at - 1].hash if at else GENESIS
            last = frames[-1]
            clock = parse(last.body, last.hash).newest
            positions[origin] = Position(last.last, last.hash, mark, head, clock)
        ordered = sorted(
            (frame for frames in self._frames.values() for frame in frames),
            key=lambda frame: frame.place,
        )
        rows = ((entity, data, checksum(entity, data)) for entity, data in states.items())
        return recover(rows, positions, ordered)

    def _index(self, record: Record) -> None:
        for frame in record.frames:
            self._place += 1
            self._frames.setdefault(frame.origin, []).append(
                StoredFrame(
                    self._place, frame.origin, frame.first, frame.last, frame.body, frame.hash
                )
            )
            self._lasts.setdefault(frame.origin, []).append(frame.last)
