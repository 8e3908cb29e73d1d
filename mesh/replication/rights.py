"""Rights of bounded counters: asked for when they run short here, handed over when others ask."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import replace

from mesh.replication.core import cells
from mesh.replication.core.entities import EntityKey, EntityState
from mesh.replication.core.journal import Journal
from mesh.replication.core.rules import escrow
from mesh.replication.errors import RightsShort
from mesh.replication.schema import EntitySchema, GroupSchema
from mesh.replication.transaction import Transaction
from mesh.replication.views import WriteContext

Submit = Callable[[Callable[[Transaction], None], WriteContext], object]
"""Queues a write that nobody waits for."""


class Rights:
    """What a group does by itself for its bounded counters. Its writes are the region's own."""

    def __init__(self, journal: Journal, schema: GroupSchema, submit: Submit) -> None:
        self._journal = journal
        self._bounded = {name: each for name, each in schema.entities.items() if each.bounded}
        self._submit = submit
        self._context = WriteContext(actor=f"region/{journal.region}")
        self._asked: set[EntityKey] = set()
        self.look(journal.committed)

    def look(self, entities: Iterable[EntityKey]) -> None:
        """Takes note of entities that changed and of which others want rights."""
        if not self._bounded:
            return
        for entity in entities:
            schema = self._bounded.get(entity[0])
            state = self._journal.committed.get(entity)
            if schema is not None and state is not None and self._wanted(schema, state):
                self._asked.add(entity)

    def hand_over(self) -> None:
        """Gives what others asked for, as far as it is here; to be called again for the rest.

        Not before the region has settled which life it lives: to give is not worth a new one.
        """
        journal = self._journal
        if (
            not self._asked
            or not journal.life.confirmed
            or not journal.members.writes(journal.region)
        ):
            return
        asked, self._asked = self._asked, set()
        for entity in asked:
            schema = self._bounded[entity[0]]
            state = self._journal.look(entity)
            if state is None or not self._wanted(schema, state):
                continue
            self._asked.add(entity)
            if any(
                escrow.answering(rows, self._journal.origin, self._journal.former)
                for rows in _rows(schema, state)
            ):
                self._give(schema, entity)

    def _give(self, schema: EntitySchema, entity: EntityKey) -> None:
        self._submit(lambda tx: tx.hand_over(schema.message_class, entity[1]), self._context)

    def ask(self, short: RightsShort, heard: Collection[str], context: WriteContext) -> None:
        """Asks the regions that are heard for what a write was short of, the richest first."""
        missing = short.asked - short.here
        amounts: dict[str, int] = {}
        richest = sorted(short.elsewhere.items(), key=lambda held: (-held[1], held[0]))
        for region, held in richest:
            if region in heard and missing > 0:
                amounts[region] = min(held, missing)
                missing -= held
        if amounts:
            schema = self._bounded[short.entity[0]]
            self._submit(
                lambda tx: tx.ask(schema.message_class, short.entity[1], short.field, amounts),
                replace(context, request_id=""),
            )

    def _wanted(self, schema: EntitySchema, state: EntityState) -> bool:
        region = self._journal.region
        return not state.deleted and any(
            escrow.wanted(rows, region) for rows in _rows(schema, state)
        )


def _rows(schema: EntitySchema, state: EntityState) -> Iterable[escrow.Rows]:
    keys = ((each.path, cells.BOUNDED_COUNTER) for each in schema.bounded)
    return [state.cells[key] for key in keys if key in state.cells]
