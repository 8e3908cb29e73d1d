"""Stored states as the messages of this region's contract."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mesh.replication.core import entities
from mesh.replication.core.clocks import Origin, milliseconds
from mesh.replication.core.entities import EntityKey, EntityState
from mesh.replication.core.journal import Journal
from mesh.replication.schema import GroupSchema
from mesh.replication.views import LastChange, View


class Renderer:
    """Makes views of states, each once."""

    def __init__(self, journal: Journal, schema: GroupSchema) -> None:
        self._journal = journal
        self._schema = schema
        self._made: dict[EntityKey, tuple[EntityState, View]] = {}

    def living(self, types: Iterable[str] | None) -> Sequence[View]:
        """All committed entities of some types (None: all) that live, by type and key."""
        wanted = self._schema.entities.keys() if types is None else set(types)
        found = [item for item in self._journal.committed.items() if item[0][0] in wanted]
        found.sort(key=lambda item: item[0])
        return [self.view(entity, state) for entity, state in found if not state.deleted]

    def view(self, entity: EntityKey, state: EntityState) -> View:
        """The view of a state of an entity that this contract knows."""
        made = self._made.get(entity)
        if made is not None and made[0] is state:
            return made[1]
        view = self._render(entity, state)
        self._made[entity] = (state, view)
        return view

    def _render(self, entity: EntityKey, state: EntityState) -> View:
        schema = self._schema.entities[entity[0]]
        changed = state.changed
        return View(
            type=entity[0],
            key=entity[1],
            generation=state.generation,
            deleted=state.deleted,
            last_change=LastChange(
                changed.actor,
                Origin(changed.region, changed.incarnation),
                milliseconds(changed.clock),
            ),
            value=entities.render(state, schema.rules, schema.key_field(entity[1])),
            message_class=schema.message_class,
        )
