"""Local writes that are not stored yet, and what their writers see."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from mesh.replication.core.batches import Batch, Write
from mesh.replication.core.entities import EntityKey, EntityState, join
from mesh.replication.core.frames import MAX_BYTES, MAX_CHANGES


class Pending:
    """The writes that are queued or in flight, over what is `committed`."""

    def __init__(self, committed: Mapping[EntityKey, EntityState]) -> None:
        self._committed = committed
        self._queue: deque[Write] = deque()
        self._overlay: dict[EntityKey, EntityState] = {}
        # Of each entity in the overlay the number of the last write that changed it.
        self._last_write: dict[EntityKey, int] = {}
        self._writes = 0

    def look(self, entity: EntityKey) -> EntityState | None:
        """An entity as a writer sees it."""
        found = self._overlay.get(entity)
        return self._committed.get(entity) if found is None else found

    def look_all(self, entities: Sequence[EntityKey]) -> list[EntityState | None]:
        """As `look`, for many."""
        found = map(self._committed.get, entities)
        return list(map(self._overlay.get, entities, found) if self._overlay else found)

    def entities(self) -> Iterator[EntityKey]:
        """The keys of all entities as a writer sees them."""
        yield from self._committed
        yield from (entity for entity in self._overlay if entity not in self._committed)

    def __contains__(self, entity: EntityKey) -> bool:
        """Whether a write of an entity is queued or in flight."""
        return entity in self._overlay

    def __bool__(self) -> bool:
        """Whether any is queued."""
        return bool(self._queue)

    def add(self, write: Write) -> None:
        """Queues a write, which later ones see at once."""
        self._queue.append(write)
        self._writes += 1
        write.number = self._writes
        self._cover(write)

    def _cover(self, write: Write) -> None:
        entities = write.columns.entities
        self._overlay.update(zip(entities, write.afters, strict=True))
        self._last_write.update(dict.fromkeys(entities, write.number))

    def close(self) -> list[Write]:
        """Takes the next ones from the queue, as many as one frame holds."""
        writes: list[Write] = []
        count = size = 0
        while self._queue:
            write = self._queue[0]
            full = count + write.count > MAX_CHANGES or size + write.size > MAX_BYTES
            # One frame's changes saw the same, so that what it depends on is what they saw.
            if writes and (full or write.seen is not writes[0].seen):
                break
            writes.append(self._queue.popleft())
            count += write.count
            size += write.size
        return writes

    def stored(self, batch: Batch) -> None:
        """A batch is committed."""
        if not self._queue:
            self._overlay.clear()
            self._last_write.clear()
            return
        overlay, last_write = self._overlay, self._last_write
        for write in batch.writes:
            number = write.number
            for entity in write.columns.entities:
                if last_write.get(entity) == number:
                    del last_write[entity], overlay[entity]
        # The writes that are queued were made upon those before them, not upon what came meanwhile.
        theirs: Sequence[Collection[EntityKey]] = [
            frame.columns.entities for frame in batch.frames if frame is not batch.local
        ]
        for changed in theirs if batch.frames else [batch.merged.after.keys()]:
            for entity in overlay.keys() & changed:
                committed = self._committed.get(entity)
                if committed is None:
                    continue  # what came was to a life that is forgotten here
                merged = join(overlay[entity], committed)
                if merged is not None:
                    overlay[entity] = merged

    def drop(self, in_flight: Iterable[Write]) -> list[Write]:
        """Drops what is queued, and returns it; those in flight stay."""
        dropped = list(self._queue)
        self._queue.clear()
        self._overlay.clear()
        self._last_write.clear()
        for write in in_flight:
            self._cover(write)
        return dropped
