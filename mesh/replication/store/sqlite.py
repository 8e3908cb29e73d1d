"""The embedded store: one SQLite database for each group and region.

The journal has one row for each frame. State is flushed behind the journal, in pieces; recovery
loads it and replays the journal above the watermark of the last flush that was whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

from mesh.replication.core.batches import Batch, Recovered
from mesh.replication.core.clocks import Origin, Vector, milliseconds
from mesh.replication.core.conflicts import Conflict
from mesh.replication.core.entities import EntityKey, EntityState
from mesh.replication.core.errors import FormatUnknown, JournalDamaged
from mesh.replication.core.frames import StoredFrame
from mesh.replication.core.grants import Operation
from mesh.replication.core.parked import KNOWN, Known
from mesh.replication.core.receipts import Receipt, ReceiptKey
from mesh.replication.core.recovery import recover
from mesh.replication.errors import StoreCorrupt, StoreTooNew
from mesh.replication.store import (
    HistoryRow,
    ResidentField,
    conflicts,
    frames,
    history,
    keys,
    operations,
    residents,
    snapshots,
    states,
    trimming,
)
from mesh.replication.store.database import Database
from mesh.replication.store.scrubbing import Scrub

_TABLES = (
    frames.TABLES,
    keys.TABLES,
    states.TABLES,
    conflicts.TABLES,
    history.TABLES,
    residents.TABLES,
    operations.TABLES,
    snapshots.TABLES,
)
_PRUNE_EVERY_MS = 600 * 1000


class SqliteStore:
    """See `mesh.replication.store.Store`. `history_types` are the entities whose history is kept.

    What is not `known` is parked. Raises `StoreLocked`, `StoreMismatch`, `StoreTooNew`,
    `StoreCorrupt` or `StoreError` if the folder cannot be used.
    """

    def __init__(
        self,
        folder: Path,
        group: str,
        region: str,
        contract_digest: bytes,
        history_types: Iterable[str],
        known: Known = KNOWN,
    ) -> None:
        self._known = known
        self._history_types = frozenset(history_types)
        self._pruned_ms = 0
        self._discreet = False
        self._database = Database(folder, group, region, contract_digest, _TABLES)
        try:
            with self._database.translated():
                self.journal_bytes = trimming.journal_bytes(self._database.reader)
        except BaseException:
            self._database.close()
            raise

    def recover(self) -> Recovered:
        """State as flushed, brought up to the journal's end."""
        with self._database.translated():
            return self._recover()

    def _recover(self) -> Recovered:
        path, reader = self._database.path, self._database.reader
        try:
            recovered = recover(
                states.load(reader),
                frames.positions(reader),
                frames.unflushed(reader),
                partial(frames.at, reader),
                self._known,
            )
        except FormatUnknown as fault:
            raise StoreTooNew(f"{path} cannot be read by this version: {fault}") from None
        except JournalDamaged as damage:
            raise StoreCorrupt(f"{path}: {damage}: {self._database.remedy}") from None
        if recovered.cut:
            with self._database.transaction() as cursor:
                frames.set_back(cursor, recovered)
        try:
            recovered.residents = residents.load(reader, self._known.rules)
        except JournalDamaged as damage:
            raise StoreCorrupt(
                f"{path}: {damage}: restore a backup, no other region has it"
            ) from None
        recovered.staged = snapshots.staged(reader)
        if recovered.staged is None:  # else its positions may need some
            with self._database.transaction() as cursor:
                keys.trim(cursor)
        recovered.keys = keys.load(reader)
        if recovered.gone:
            # What was parked goes in one transaction with the states that have it now.
            with self._database.transaction() as cursor:
                have_it = recovered.replayed
                states.put(cursor, (states.state_row(e, recovered.states[e]) for e in have_it))
                states.drop(cursor, recovered.gone)
        return recovered

    def commit(self, batch: Batch) -> list[StoredFrame]:
        """Makes a batch durable in one transaction: frames, positions, receipts, history."""
        with self._database.transaction() as cursor:
            stored = frames.append(cursor, batch.frames)
            if batch.keys:
                keys.keep(cursor, batch.keys)
            came = [receipt for frame in batch.frames for receipt in frame.receipts]
            if batch.receipts or came:
                batch.merged.doubled = operations.keep(cursor, batch.receipts, came)
            if self._history_types:
                history.keep(cursor, batch.frames, self._history_types)
            if batch.settled:
                residents.keep(cursor, batch.settled)
            if batch.merged.conflicts:
                conflicts.keep(cursor, batch.merged.conflicts.newest(conflicts.KEPT))
            if batch.staging is not None:
                snapshots.stage(cursor, batch.staging)
            for frame in batch.frames[:1]:
                now_ms = milliseconds(frame.newest)
                if now_ms - self._pruned_ms >= _PRUNE_EVERY_MS:
                    self._pruned_ms = now_ms
                    operations.prune(cursor, now_ms)
        self.journal_bytes += sum(len(frame.body) for frame in batch.frames)
        return stored

    def flush(
        self,
        changed: Mapping[EntityKey, EntityState],
        watermark: Mapping[Origin, int] | None = None,
        kept: Mapping[EntityKey, int] | None = None,
    ) -> set[EntityKey]:
        """Stores states of what is committed; see `mesh.replication.store.Store`."""
        rows, refused = states.state_rows(changed, kept or {})
        # After a power cut the journal has it still.
        with self._database.transaction(synced=False) as cursor:
            states.put(cursor, rows.values())
            if watermark is not None and not refused:
                frames.raise_watermark(cursor, watermark)
        return refused

    def scrub(self) -> Scrub:
        """A connection that reads again what is stored; see `mesh.replication.store.scrubbing`."""
        database = self._database
        with database.translated():
            return Scrub(database.connect(), database.transaction, database.translated)

    def trim(self, below: Mapping[Origin, int], keep_bytes: int) -> bool:
        """Deletes some of the oldest frames; see `mesh.replication.store.Store`."""
        size = 0
        if self.journal_bytes > keep_bytes:
            # A power cut may bring frames back, which does no harm.
            with self._database.transaction(synced=False) as cursor:
                size = trimming.trim(cursor, below, self.journal_bytes - keep_bytes)
            self.journal_bytes -= size
        return size > 0

    def forget(self, entities: Iterable[EntityKey]) -> None:
        """Deletes stored states: of tombstones that are dropped."""
        # After a power cut they are there, and are dropped again.
        with self._database.transaction(synced=False) as cursor:
            states.drop(cursor, entities)

    def held(self, vector: Mapping[Origin, int]) -> int:
        """How many bytes of frames lie beyond a vector; at most, if they are very many."""
        with self._database.translated():
            found = trimming.held(self._database.writer, vector)
        return self.journal_bytes if found is None else found

    def receipts(self, after: ReceiptKey, most_bytes: int, until_ms: int) -> list[Receipt]:
        """The kept results of operations after a key, by key, and up to a time.

        They are for others: bare, if anything of the group stays here.
        """
        with self._database.translated():
            found = operations.after(self._database.reader, after, most_bytes, until_ms)
        return [receipt.bare() for receipt in found] if self._discreet else found

    def after(self, origin: Origin, sequence: int, most_bytes: int) -> list[StoredFrame]:
        """An origin's frames that end beyond a sequence number; at least one if there is any."""
        with self._database.translated():
            return frames.after(self._database.reader, origin, sequence, most_bytes)

    def flushed(self) -> Vector:
        """The watermark: up to it all states are stored."""
        with self._database.translated():
            found = frames.positions(self._database.reader)
        return {origin: position.flushed for origin, position in found.items()}

    def stored(self, entity: EntityKey) -> bytes | None:
        """An entity's stored state; see `mesh.replication.store.Store`."""
        with self._database.translated():
            return states.load_one(self._database.reader, entity)

    def receipt(self, actor: str, method: str, request_id: str) -> Receipt | None:
        """The kept result of an operation."""
        with self._database.translated():
            return operations.kept(self._database.reader, (actor, method, request_id))

    def fence(self, operation: Operation, time_ms: int) -> None:
        """Makes durable that an operation was granted to another region."""
        with self._database.transaction() as cursor:
            operations.fence(cursor, operation, time_ms)

    def fences(self) -> dict[Operation, int]:
        """The operations that were granted to other regions, and when."""
        with self._database.translated():
            return operations.fences(self._database.reader)

    def history(self, entity: EntityKey, most: int) -> list[HistoryRow]:
        """An entity's changes, newest first."""
        with self._database.translated():
            return history.kept(self._database.reader, entity, most)

    def conflicts(self, entity: EntityKey | None, most: int) -> list[Conflict]:
        """The conflicts of an entity, or of all, newest first."""
        with self._database.translated():
            return conflicts.kept(self._database.reader, entity, most)

    def resident_fields(self, declared: Iterable[ResidentField]) -> frozenset[ResidentField]:
        """See `mesh.replication.store.Store`."""
        with self._database.transaction() as cursor:
            remembered = residents.remember(cursor, declared)
        self._discreet = bool(remembered)
        return remembered

    def close(self) -> None:
        """Lets go of the store."""
        self._database.close()
