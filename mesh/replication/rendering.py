"""Stored states as the messages of this region's contract."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence

from google.protobuf.message import DecodeError

from mesh.replication import residency
from mesh.replication.core import rendering
from mesh.replication.core.batches import Visible
from mesh.replication.core.clocks import Origin, milliseconds
from mesh.replication.core.entities import EntityKey, EntityState
from mesh.replication.core.journal import Journal
from mesh.replication.schema import EntitySchema, GroupSchema
from mesh.replication.views import EntityChange, LastChange, View

_log = logging.getLogger("isthmus.replication")

_Changed = tuple[EntityKey, EntityState | None, EntityState, EntityState | None]
"""An entity, its state before and after, and its section of HOME_REGION cells before."""


def render(state: EntityState, schema: EntitySchema, key: str) -> tuple[bytes, tuple[str, ...]]:
    """An entity as bytes that its class parses, and the fields that it had to leave out for that.

    A frame is taken if its cells are well framed, for a region need not know their types. So a
    text that is not UTF-8, say, is found only here, by who has the type: it costs its own field,
    and never the whole entity. It stays in the store, as in all regions, until someone writes it.
    """
    value = _whole(state, schema, key)
    if _parses(value, schema):
        return value, ()
    # Cells of paths that the contract knows parse together if they parse alone. The others, of
    # which nothing is known, go: next to a damaged neighbour they may be in its place.
    kept = {
        cell: content
        for cell, content in state.cells.items()
        if cell[0] in schema.rules
        and _parses(_whole(state._replace(cells={cell: content}), schema, key), schema)
    }
    lost = sorted({schema.name_of(path) for path, _ in state.cells.keys() - kept.keys()})
    return _whole(state._replace(cells=kept), schema, key), tuple(lost)


def _whole(state: EntityState, schema: EntitySchema, key: str) -> bytes:
    return rendering.render(state, schema.rules, schema.key_field(key))


def _parses(value: bytes, schema: EntitySchema) -> bool:
    try:
        schema.message_class.FromString(value)
    except DecodeError:
        return False
    return True


class Renderer:
    """Makes views of states, each once."""

    def __init__(self, journal: Journal, schema: GroupSchema) -> None:
        self._journal = journal
        self._schema = schema
        self._made: dict[EntityKey, tuple[EntityState, EntityState | None, View]] = {}
        self._unreadable: dict[EntityKey, tuple[str, ...]] = {}

    def living(self, types: Iterable[str] | None) -> Sequence[View]:
        """All committed entities of some types (None: all) that live, by type and key."""
        wanted = self._schema.entities.keys() if types is None else set(types)
        found = [item for item in self._journal.committed.items() if item[0][0] in wanted]
        found.sort(key=lambda item: item[0])
        return [self.view(entity, state) for entity, state in found if not state.deleted]

    def view(self, entity: EntityKey, state: EntityState) -> View:
        """The view of a state of an entity that this contract knows."""
        return self._view(entity, state, self._journal.residents.committed.get(entity))

    def changes(self, visible: Visible) -> tuple[EntityChange, ...]:
        """What a commit made visible of the entities that this contract knows."""
        known = self._schema.entities
        now = self._journal.residents.committed
        return tuple(
            EntityChange(
                None if before is None else self._view(entity, before, section),
                self._view(entity, after, now.get(entity)),
            )
            for entity, before, after, section in self._changed(visible)
            if entity[0] in known
        )

    def _changed(self, visible: Visible) -> Iterator[_Changed]:
        was, now = visible.residents, self._journal.residents.committed
        for entity, after in visible.after.items():
            before = visible.before[entity]
            yield entity, before, after, was[entity] if entity in was else now.get(entity)
        for entity, section in was.items():
            state = self._journal.committed.get(entity)
            if entity not in visible.after and state is not None:
                yield entity, state, state, section

    def whole(self, entity: EntityKey, state: EntityState) -> EntityState:
        """A committed state with all that this region has of it."""
        section = self._journal.residents.committed.get(entity)
        return self._whole(entity, state, section)

    def _whole(
        self, entity: EntityKey, state: EntityState, section: EntityState | None
    ) -> EntityState:
        schema = self._schema.entities[entity[0]]
        return residency.whole(state, section, schema, self._journal.region)

    def _view(self, entity: EntityKey, state: EntityState, section: EntityState | None) -> View:
        made = self._made.get(entity)
        if made is not None and made[0] is state and made[1] is section:
            return made[2]
        view = self._render(entity, state, section)
        self._made[entity] = (state, section, view)
        return view

    def _render(self, entity: EntityKey, state: EntityState, section: EntityState | None) -> View:
        schema = self._schema.entities[entity[0]]
        changed = state.changed
        if section is not None and section.changed > changed and not state.deleted:
            changed = section.changed
        shared = None
        if section is not None:
            alone = residency.whole(state, None, schema, self._journal.region)
            shared = render(alone, schema, entity[1])[0]
        state = self._whole(entity, state, section)
        value, unreadable = render(state, schema, entity[1])
        self._report(entity, unreadable)
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
            value=value,
            message_class=schema.message_class,
            shared=shared,
        )

    def _report(self, entity: EntityKey, unreadable: tuple[str, ...]) -> None:
        if unreadable == self._unreadable.get(entity, ()):
            return
        if unreadable:
            self._unreadable[entity] = unreadable
            _log.error(
                "%s %r: %s cannot be read and counts as not set: some region wrote what is not "
                "of its type",
                *entity,
                ", ".join(unreadable),
            )
        else:
            del self._unreadable[entity]
