"""A disk that tells what was written from what was synced, and a group's store on it.

The store is a log of transactions, as SQLite's write-ahead log is: a power cut keeps what was
synced and any part of the rest, in order; a transaction that is cut through is void, as its
checksum shows. Recovery is the core's own.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from mesh.replication.core import entities, snapshots
from mesh.replication.core.batches import Recovered
from mesh.replication.core.clocks import Origin, Vector
from mesh.replication.core.entities import EntityKey, EntityState, checksum
from mesh.replication.core.errors import JournalDamaged
from mesh.replication.core.frames import GENESIS, Frame, StoredFrame
from mesh.replication.core.grants import Operation
from mesh.replication.core.parked import KNOWN, Known
from mesh.replication.core.receipts import Receipt, ReceiptKey
from mesh.replication.core.recovery import Position, recover
from mesh.replication.core.residents import Settled
from mesh.replication.core.signatures import Key
from mesh.replication.core.snapshots import Piece, Staged, Staging

_OVERHEAD = 64


Row = tuple[bytes, bytes]
"""A state's canonical bytes and their checksum."""


@dataclass(frozen=True)
class Record:
    """One transaction: frames of a commit, states of a flush, or a cut of the journal."""

    size: int
    frames: tuple[Frame, ...] = ()
    states: Mapping[EntityKey, Row] = field(default_factory=dict)
    watermark: Mapping[Origin, int] = field(default_factory=dict)
    staging: Staging | None = None
    cut: Mapping[Origin, int] = field(default_factory=dict)
    residents: Mapping[EntityKey, bytes | None] = field(default_factory=dict)
    fence: tuple[Operation, int] | None = None
    keys: tuple[bytes, ...] = ()
    forgotten: tuple[EntityKey, ...] = ()


class Disk:
    """A region's disk."""

    def __init__(self) -> None:
        self.fields: frozenset[tuple[str, bytes]] = frozenset()
        """The HOME_REGION fields that were declared here; each backup has them as well."""
        self.replace([])

    def replace(self, records: Iterable[Record]) -> None:
        """Another disk in its place: a backup, or an empty one."""
        self.records = list(records)
        self.synced = len(self.records)
        self._frames: dict[Origin, list[tuple[StoredFrame, Frame]]] = {}
        self._lasts: dict[Origin, list[int]] = {}
        self._positions: dict[Origin, Position] = {}
        self._states: dict[EntityKey, Row] = {}
        self._header: bytes | None = None
        self._pieces: list[Piece] = []
        self._place = 0
        self.fences: dict[Operation, int] = {}
        for record in self.records:
            self._index(record)

    def commit(
        self,
        frames: Iterable[Frame],
        settled: Settled,
        staging: Staging | None = None,
        keys: Iterable[Key] = (),
    ) -> None:
        """Writes a commit, unsynced."""
        kept = tuple(frames)
        residents = {e: entities.encode(state) if state else None for e, state in settled.items()}
        statements = tuple(key.statement for key in keys)
        size = _OVERHEAD + sum(len(f.body) for f in kept)
        self.records.append(
            Record(size, kept, residents=residents, staging=staging, keys=statements)
        )

    def flush(
        self, states: Mapping[EntityKey, EntityState], watermark: Mapping[Origin, int] | None
    ) -> None:
        """Writes states, unsynced; see `mesh.replication.store.Store.flush`."""
        rows: dict[EntityKey, Row] = {}
        for entity, state in states.items():
            data = entities.encode(state)
            rows[entity] = data, checksum(entity, data)
        size = _OVERHEAD + sum(len(data) for data, _ in rows.values())
        self.records.append(Record(size, (), rows, dict(watermark or {})))

    def rot(self, entity: EntityKey, at: int) -> None:
        """Changes one byte of an entity's stored state, if there is one."""
        for number in reversed(range(len(self.records))):
            record = self.records[number]
            if entity in record.states:
                data, hash = record.states[entity]
                changed = bytearray(data)
                changed[at % len(changed)] ^= 1 + at % 255
                rows = {**record.states, entity: (bytes(changed), hash)}
                self.records[number] = replace(record, states=rows)
                if self._states.get(entity) == (data, hash):
                    self._states[entity] = rows[entity]
                return

    def rotten(self) -> set[EntityKey]:
        """The entities whose stored state is not as it was written."""
        return {e for e, (data, hash) in self._states.items() if checksum(e, data) != hash}

    def trim(self, below: Mapping[Origin, int]) -> Vector:
        """Cuts the journal, unsynced; see `mesh.replication.store.Store.trim`. Returns where."""
        cut: Vector = {}
        for origin, lasts in self._lasts.items():
            most = min(below.get(origin, 0), self._positions[origin].flushed)
            gone = bisect_right(lasts, most)
            if gone:
                cut[origin] = lasts[gone - 1]
        self.records.append(Record(_OVERHEAD, cut=cut))
        return cut

    def fence(self, operation: Operation, time_ms: int) -> None:
        """Writes that an operation was granted, and when, unsynced."""
        self.records.append(Record(_OVERHEAD, fence=(operation, time_ms)))

    def forget(self, tombstones: Iterable[EntityKey]) -> None:
        """Deletes states, unsynced; see `mesh.replication.store.Store.forget`."""
        self.records.append(Record(_OVERHEAD, forgotten=tuple(tombstones)))

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
        return [stored for stored, _ in self._frames.get(origin, [])[start : start + 3]]

    def receipts(self, after: ReceiptKey, most_bytes: int, until_ms: int) -> list[Receipt]:
        """See `mesh.replication.store.Store.receipts`; simulated writes leave none."""
        return []

    def vector(self) -> Vector:
        """How far each origin would be known after a power cut now."""
        return {origin: position.sequence for origin, position in self._positions.items()}

    def flushed(self) -> Vector:
        """The watermark."""
        return {origin: position.flushed for origin, position in self._positions.items()}

    def stored(self, entity: EntityKey) -> bytes | None:
        """See `mesh.replication.store.Store.stored`."""
        if entity not in self._states:
            return b""
        data, hash = self._states[entity]
        return data if checksum(entity, data) == hash else None

    def frames(self) -> list[Frame]:
        """All frames that are synced, in the order of their commits."""
        found = [each for frames in self._frames.values() for each in frames]
        return [frame for _, frame in sorted(found, key=lambda each: each[0].place)]

    def recover(self, known: Known = KNOWN) -> Recovered:
        """What a process that opens the disk finds. A process's end is no power cut."""
        self.replace(self.records)
        ordered = sorted(
            (stored for frames in self._frames.values() for stored, _ in frames),
            key=lambda frame: frame.place,
        )
        rows = ((entity, *row) for entity, row in self._states.items())
        recovered = recover(rows, self._positions, ordered, lambda *_: None, known)
        if recovered.cut:
            raise JournalDamaged(f"nothing damaged it: {recovered.cut}")
        if self._header is not None:
            recovered.staged = Staged(self._header, list(self._pieces))
        recovered.residents = self._residents()
        recovered.keys = [statement for record in self.records for statement in record.keys]
        return recovered

    def _residents(self) -> dict[EntityKey, EntityState]:
        found: dict[EntityKey, EntityState] = {}
        for record in self.records:
            for entity, data in record.residents.items():
                if data is None:
                    found.pop(entity, None)
                else:
                    found[entity] = entities.decode(data)
        return found

    def _index(self, record: Record) -> None:
        if record.fence is not None:
            operation, time_ms = record.fence
            self.fences[operation] = time_ms
        for frame in record.frames:
            self._place += 1
            origin = frame.origin
            stored = StoredFrame(
                self._place,
                origin,
                frame.first,
                frame.last,
                frame.body,
                frame.hash,
                frame.signature,
            )
            self._frames.setdefault(origin, []).append((stored, frame))
            self._lasts.setdefault(origin, []).append(frame.last)
            before = self._positions.get(origin, Position(0, GENESIS, 0, GENESIS))
            self._positions[origin] = before._replace(
                sequence=frame.last,
                hash=frame.hash,
                clock=frame.newest,
                signature=frame.signature,
            )
        self._states.update(record.states)
        for origin, sequence in record.watermark.items():
            if sequence > self._positions[origin].flushed:
                at = self._lasts[origin].index(sequence)
                hash = self._frames[origin][at][0].hash
                self._positions[origin] = self._positions[origin]._replace(
                    flushed=sequence, flushed_hash=hash
                )
        if record.staging is not None:
            self._stage(record.staging)
        for entity in record.forgotten:
            self._states.pop(entity, None)
        for origin, last in record.cut.items():
            gone = bisect_right(self._lasts[origin], last)
            del self._lasts[origin][:gone], self._frames[origin][:gone]

    def _stage(self, staging: Staging) -> None:
        if staging.header is not None:
            self._header, self._pieces = staging.header, []
        self._pieces += staging.pieces
        if staging.install is None:
            return
        for piece in self._pieces:
            for entity, data in snapshots.rows(piece.body):
                if entity not in staging.install.kept:
                    self._states[entity] = data, checksum(entity, data)
        self._header, self._pieces = None, []
        for entity, state in staging.install.states.items():
            data = entities.encode(state)
            unproven = entity in staging.install.unproven
            self._states[entity] = data, entities.UNPROVEN if unproven else checksum(entity, data)
        for origin, (sequence, hash, clock, signature) in staging.install.positions.items():
            if origin not in self._positions or self._positions[origin].sequence < sequence:
                self._positions[origin] = Position(sequence, hash, sequence, hash, clock, signature)
