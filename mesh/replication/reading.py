"""Reading a group: committed state only, in the terms of this region's contract."""

from __future__ import annotations

import builtins
from collections.abc import Iterable, Sequence
from typing import TypeVar

from google.protobuf.message import Message

from mesh.replication import conflicts, residency
from mesh.replication.core import etags
from mesh.replication.core.clocks import Origin, milliseconds
from mesh.replication.core.conflicts import Conflict
from mesh.replication.core.entities import DELETE, EntityKey
from mesh.replication.core.journal import Journal
from mesh.replication.rendering import Renderer
from mesh.replication.schema import GroupSchema
from mesh.replication.store import Store
from mesh.replication.views import ChangeRecord, ConflictView, Value, View

M = TypeVar("M", bound=Message)

HISTORY_KEPT = 1000
"""How many changes `history` returns at most."""


class Entities:
    """The entities of a group that this region's contract knows."""

    def __init__(self, journal: Journal, store: Store, schema: GroupSchema) -> None:
        self.journal = journal
        self._store = store
        self._schema = schema
        self._views = Renderer(journal, schema)

    def get(self, type: type[M], key: str) -> M | None:
        """An entity, or None if it does not live. The message is the caller's own."""
        view = self.get_view(type, key)
        return None if view is None or view.deleted else type.FromString(view.value)

    def list(self, type: type[M]) -> list[M]:
        """All living entities of a type, by key."""
        views = self._views.living({self._schema.entity(type.DESCRIPTOR.full_name).name})
        return [type.FromString(view.value) for view in views]

    def get_view(self, type: type[Message], key: str) -> View | None:
        """An entity with its generation and last change; a tombstone if it was deleted."""
        entity = self._entity(type, key)
        state = self.journal.committed.get(entity)
        return None if state is None else self._views.view(entity, state)

    def history(self, type: type[Message], key: str) -> builtins.list[ChangeRecord]:
        """An entity's changes, newest first, `HISTORY_KEPT` at most.

        Empty if its contract does not keep history.
        """
        schema = self._schema.entity(type.DESCRIPTOR.full_name)
        return [
            ChangeRecord(
                actor=row.actor,
                origin=Origin(row.stamp.region, row.stamp.incarnation),
                time_ms=milliseconds(row.stamp.clock),
                generation=row.generation,
                fields=tuple(schema.name_of(path) for path in row.paths),
                deleted=row.kind == DELETE,
                trace_parent=row.trace_parent,
                request_id=row.request_id,
            )
            for row in self._store.history((schema.name, key), HISTORY_KEPT)
        ]

    def etag(self, type: type[Message], key: str) -> bytes | None:
        """What names this reading of an entity for a later write; None if it does not live.

        `Transaction.set`, `put` and `remove` take it, and change nothing that came since.
        """
        entity = self._entity(type, key)
        state = self.journal.committed.get(entity)
        if state is None or state.deleted:
            return None
        return etags.encode(self._views.whole(entity, state))

    def versions(self, type: type[Message], key: str, field: str) -> builtins.list[Value]:
        """The values of a KEEP_BOTH field that stand; the one that `get` gives comes first.

        More than one is a conflict that nobody has resolved yet: writing the field does.
        """
        state = self.journal.committed.get(self._entity(type, key))
        schema = self._schema.entity(type.DESCRIPTOR.full_name)
        return [] if state is None else conflicts.versions(state, schema, field)

    def conflicts(
        self, type: type[Message] | None = None, key: str = ""
    ) -> builtins.list[ConflictView]:
        """What merging decided between concurrent values: of an entity, or of all; newest first.

        `Batch.conflicts` shows them as they come. Of a group the newest thousand are kept, and of
        their values the newest 4 MiB; what is shown at once is 1 MiB at most.
        """
        entity = None if type is None else self._entity(type, key)
        return self._conflict_views(self._store.conflicts(entity, conflicts.NEWEST))

    def _conflict_views(self, newest_first: Iterable[Conflict]) -> builtins.list[ConflictView]:
        return list(conflicts.views(newest_first, self._schema.entities))

    def _entity(self, type: type[Message], key: str) -> EntityKey:
        return self._schema.entity(type.DESCRIPTOR.full_name).name, key

    def check_home(self, type: str, key: str) -> None:
        """Raises `NotHome` if an entity of a message type lives, and another region writes it."""
        residency.check_home_of(self._schema.entity(type), self.journal, key)

    def types(self, names: Iterable[str]) -> Sequence[type[Message]]:
        """The message classes of entities by their full names. Raises `NotReplicated`."""
        return [self._schema.entity(name).message_class for name in names]
