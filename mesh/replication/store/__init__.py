"""Where a group keeps its journal and state in one region."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol

from mesh.replication.core.batches import Batch, Recovered
from mesh.replication.core.cells import Stamp
from mesh.replication.core.clocks import Origin, Vector
from mesh.replication.core.conflicts import Conflict
from mesh.replication.core.entities import EntityKey, EntityState
from mesh.replication.core.frames import StoredFrame
from mesh.replication.core.grants import Operation
from mesh.replication.core.receipts import Receipt, ReceiptKey
from mesh.replication.store.scrubbing import Scrub

ResidentField = tuple[str, bytes]
"""A HOME_REGION field: its entity's message type and the path of its cell."""


class HistoryRow(NamedTuple):
    """One change in an entity's history; `paths` are those of the cells that it wrote."""

    stamp: Stamp
    generation: int
    kind: int
    actor: str
    trace_parent: str
    request_id: str
    paths: tuple[bytes, ...]


class Store(Protocol):
    """One group's store in one region; one process has it open.

    `commit`, `flush`, `fence` and `trim` are called from one thread, the others from another. All
    raise the `StoreError`s of `mesh.replication.errors`. `journal_bytes` is the size of all frames.
    """

    journal_bytes: int

    def recover(self) -> Recovered:
        """State as flushed, brought up to the journal's end."""

    def commit(self, batch: Batch) -> list[StoredFrame]:
        """Makes a batch durable in one transaction.

        That is its frames, positions, keys, receipts, history, conflicts and HOME_REGION cells, and
        what it does to a snapshot that comes in. To install one moves its origins' watermarks too.
        """

    def flush(
        self,
        changed: Mapping[EntityKey, EntityState],
        watermark: Mapping[Origin, int] | None = None,
        kept: Mapping[EntityKey, int] | None = None,
    ) -> set[EntityKey]:
        """Stores committed states of what `changed`; those with other fingerprints than `kept` not.

        Returns these; there is no watermark then.

        A `watermark` says that with these all states are stored as of that vector or later:
        recovery replays what is above it. Replay may meet changes that a state has already.
        """

    def trim(self, below: Mapping[Origin, int], keep_bytes: int) -> bool:
        """Deletes some of the oldest frames, as long as the journal is larger than `keep_bytes`.

        Only those wholly at or below a vector, and below the watermark. Tells whether any went:
        call it again then.
        """

    def forget(self, entities: Iterable[EntityKey]) -> None:
        """Deletes stored states: of tombstones that are dropped."""

    def held(self, vector: Mapping[Origin, int]) -> int:
        """How many bytes of frames lie beyond a vector; at most, if they are very many."""

    def receipts(self, after: ReceiptKey, most_bytes: int, until_ms: int) -> list[Receipt]:
        """The kept results of operations after a key, by key; at least one if there is any.

        None is of a later time than `until_ms`, since 1970.
        """

    def after(self, origin: Origin, sequence: int, most_bytes: int) -> list[StoredFrame]:
        """An origin's frames that end beyond a sequence number; at least one if there is any."""

    def flushed(self) -> Vector:
        """The watermark: up to it all states are stored."""

    def stored(self, entity: EntityKey) -> bytes | None:
        """An entity's state as stored, in canonical bytes; empty if none is.

        None if it is not what its checksum says.
        """

    def scrub(self) -> Scrub:
        """A connection that reads again what is stored, from a third thread."""

    def receipt(self, actor: str, method: str, request_id: str) -> Receipt | None:
        """The kept result of an operation."""

    def fence(self, operation: Operation, time_ms: int) -> None:
        """Makes durable that an operation was granted to another region."""

    def fences(self) -> Mapping[Operation, int]:
        """The operations that were granted to other regions, the oldest first, and when."""

    def history(self, entity: EntityKey, most: int) -> list[HistoryRow]:
        """An entity's changes, newest first."""

    def conflicts(self, entity: EntityKey | None, most: int) -> list[Conflict]:
        """The conflicts of an entity, or of all, newest first; only the newest are kept."""

    def resident_fields(self, declared: Iterable[ResidentField]) -> frozenset[ResidentField]:
        """The HOME_REGION fields that any contract here has declared, by message type and path.

        These are remembered as well.
        """

    def close(self) -> None:
        """Lets go of the store."""
