"""Stored states as the messages of this region's contract."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from google.protobuf.message import DecodeError

from mesh.replication.core import entities
from mesh.replication.core.clocks import Origin, milliseconds
from mesh.replication.core.entities import EntityKey, EntityState
from mesh.replication.core.journal import Journal
from mesh.replication.schema import EntitySchema, GroupSchema
from mesh.replication.views import LastChange, View

_log = logging.getLogger("isthmus.replication")


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
    return entities.render(state, schema.rules, schema.key_field(key))


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
        self._made: dict[EntityKey, tuple[EntityState, View]] = {}
        self._unreadable: dict[EntityKey, tuple[str, ...]] = {}

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
