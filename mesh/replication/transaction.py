"""A write in the making: what its function sees, and the changes that it leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from google.protobuf.message import Message

from mesh.contracts.model import Durability
from mesh.replication import bulk, deltas, residency
from mesh.replication.bulk import Bulk
from mesh.replication.core import cells, entities, etags
from mesh.replication.core.batches import Write
from mesh.replication.core.cells import Stamp
from mesh.replication.core.columns import Columns, joined, of_changes
from mesh.replication.core.entities import CREATE, DELETE, UPSERT, Change, EntityKey, EntityState
from mesh.replication.core.frames import MAX_WRITE
from mesh.replication.core.journal import Journal
from mesh.replication.core.receipts import Receipt
from mesh.replication.core.rules import escrow
from mesh.replication.core.shapes import CellKey, pack, shape_of
from mesh.replication.errors import (
    AlreadyExists,
    NotFound,
    NotReplicated,
    ResidentDurability,
    RightsShort,
    WriteTooLarge,
)
from mesh.replication.rendering import render
from mesh.replication.schema import EntitySchema, FieldSchema, GroupSchema
from mesh.replication.views import WriteContext

M = TypeVar("M", bound=Message)

_CHANGE_OVERHEAD = 64
_IN_PARTS = (cells.SET, cells.MAP, cells.KEEP_BOTH, cells.BOUNDED_COUNTER)


class _Draft:
    """A change in the making: later changes of the write to the same entity may go into it."""

    count = 1

    def __init__(
        self,
        entity: EntityKey,
        generation: int,
        kind: int,
        stamp: Stamp,
        before: EntityState | None,
    ) -> None:
        self.entity = entity
        self.generation = generation
        self.kind = kind
        self.stamp = stamp
        self.befores = (before,)
        self.afters: tuple[EntityState, ...] = ()
        self.cells: dict[CellKey, bytes] = {}

    def change(self, context: WriteContext, left: int) -> Change:
        """What it is by now, with so many changes of its write to follow."""
        shape = shape_of(self.cells)
        return Change(
            self.entity,
            self.generation,
            self.kind,
            self.stamp,
            context.actor,
            context.trace_parent,
            context.request_id,
            left,
            shape,
            pack(shape, map(self.cells.__getitem__, shape)),
        )

    def columns(self, context: WriteContext, left: int) -> Columns:
        return of_changes((self.change(context, left),))

    def apply(self, context: WriteContext) -> EntityState:
        """What it makes of its entity."""
        self.afters = (entities.apply(self.befores[0], self.change(context, 0)),)
        return self.afters[0]


class Transaction:
    """Sees what is committed and the writes in flight; all of its changes become visible together.

    It runs synchronously and is over when its function returns. `now_ms` is the wall clock.
    """

    def __init__(
        self, journal: Journal, schema: GroupSchema, context: WriteContext, now_ms: int
    ) -> None:
        self.region = journal.region
        self.now_ms = now_ms
        self._journal = journal
        self._seen = journal.seen
        self._schema = schema
        self._context = context
        self._made: list[_Draft | Bulk] = []
        self._count = 0
        self._latest: dict[EntityKey, _Draft] = {}
        self._residents = residency.Writing(journal.residents, context.actor)
        self._after: dict[EntityKey, EntityState] = {}

    # Reading.

    def get(self, type: type[M], key: str) -> M | None:
        """An entity, or None if it does not live. The message is the caller's own."""
        schema = self._of(type)
        state = self._look((schema.name, key))
        if state is None or state.deleted:
            return None
        return type.FromString(render(self._whole(schema, key, state), schema, key)[0])

    def etag(self, type: type[Message], key: str) -> bytes:
        """What names this reading of an entity, for a later write. Raises `NotFound`."""
        return etags.encode(self._living(self._of(type), key))

    def list(self, type: type[M]) -> list[M]:
        """All living entities of a type, by key."""
        name = self._of(type).name
        keys = {key for of, key in self._journal.entities() if of == name}
        keys.update(key for of, key in self._after if of == name)
        found = (self.get(type, key) for key in sorted(keys))
        return [message for message in found if message is not None]

    # Writing.

    def create(self, message: Message) -> None:
        """Creates an entity with the fields that are set. Raises `AlreadyExists` if it lives.

        If one region writes it, that is this one: its home is filled in. Raises `NotHome` if
        `message` names another.
        """
        schema = self._schema.entity(message.DESCRIPTOR.full_name)
        key = schema.key_of(message)
        entity = (schema.name, key)
        state = self._look(entity)
        if state is not None and not state.deleted:
            raise AlreadyExists(f"{schema.name} {key!r} exists already")
        message = residency.at_home(schema, message, self.region)
        clock_ms = self._journal.clock_ms(self.now_ms)
        generation = residency.generation_of_new(schema, state, self.region, clock_ms)
        draft = self._draft(entity, generation, CREATE, state)
        staying: dict[CellKey, bytes] = {}
        for each in schema.fields.values():
            delta = deltas.of_create(each, message, self._journal.origin)
            if delta is not None:
                into = staying if each.path in schema.resident else draft.cells
                into[each.path, each.rule] = delta
        self._apply(draft)
        self._stay(entity, generation, staying)

    def set(self, message: Message, *paths: str, etag: bytes | None = None) -> None:
        """Writes fields of an entity that lives, with the values that `message` has.

        `paths` are dotted names of LATEST, FIRST, MAX, MIN or KEEP_BOTH fields, or of a MESSAGE to
        write all such fields below it; a named field that is not set in `message` is cleared.
        Without paths, all such fields that differ are written. A FIRST that has a value keeps it,
        and a MAX or MIN that does not win changes nothing; neither of the three can be cleared. A
        KEEP_BOTH replaces the values that are seen here, or those that were read with `etag`.
        Raises `NotFound`, `NotReplicated` and `EtagDamaged`.
        """
        schema = self._schema.entity(message.DESCRIPTOR.full_name)
        self._check_unmoved(schema, paths)
        state = self._writable(schema, schema.key_of(message))
        here = dict(state.cells.items())
        written: dict[CellKey, bytes] = {}
        for each in schema.named(paths, *deltas.SETTABLE):
            key = (each.path, each.rule)
            delta = deltas.of_set(
                each,
                message,
                here.get(key),
                self._journal.origin,
                etags.read(etag, state, key),
                named=bool(paths),
            )
            if delta is not None:
                written[key] = delta
        self._amend(schema, schema.key_of(message), written)

    def upsert(self, messages: Sequence[M], *paths: str) -> None:
        """Creates each entity that does not live, and writes its fields as `create` and `set` do.

        Without paths all fields are written, as they are in the message: those that are not set in
        it are cleared. Made for many entities of one type whose fields are all LATEST; the messages
        lose the fields that this contract does not know. Raises `NotReplicated`.
        """
        if not messages:
            return
        schema = self._schema.entity(messages[0].DESCRIPTOR.full_name)
        shape = bulk.shape_of(schema, paths)
        if shape is None:
            for message in messages:
                living = self._look((schema.name, schema.key_of(message)))
                if living is None or living.deleted:
                    self.create(message)
                else:
                    self.set(message, *paths)
            return
        made = bulk.upsert(
            self._journal,
            schema,
            shape,
            messages,
            self._context.actor,
            self.now_ms,
            self._after,
        )
        self._made.append(made)
        self._count += made.count
        if self._latest:
            for entity in made.entities:
                self._latest.pop(entity, None)

    def add(self, type: type[Message], key: str, field: str, *values: Any) -> None:
        """Adds elements to a SET. Raises `NotFound` and `NotReplicated`."""
        schema = self._of(type)
        each = schema.field(field, cells.SET)
        state = self._writable(schema, key)
        cell = state.cells.get((each.path, each.rule))
        adding = each.elements(schema.message_class, values)
        if adding:
            delta = cells.Set.delta(cell, self._journal.origin, adding)
            self._amend(schema, key, {(each.path, each.rule): delta})

    def put(
        self,
        type: type[Message],
        key: str,
        field: str,
        values: Mapping[Any, Any],
        etag: bytes | None = None,
    ) -> None:
        """Puts entries into a MAP, in place of those that are seen here, or were with `etag`.

        Raises `NotFound`, `NotReplicated` and `EtagDamaged`.
        """
        schema = self._of(type)
        each = schema.field(field, cells.MAP)
        state = self._writable(schema, key)
        cell_key = (each.path, each.rule)
        if values:
            delta = cells.registers.delta(
                state.cells.get(cell_key),
                self._journal.origin,
                each.entries(schema.message_class, values),
                read=etags.read(etag, state, cell_key),
            )
            self._amend(schema, key, {cell_key: delta})

    def remove(
        self, type: type[Message], key: str, field: str, *values: Any, etag: bytes | None = None
    ) -> None:
        """Removes elements from a SET, or keys from a MAP: as far as seen here, or with `etag`.

        Raises `NotFound`, `NotReplicated` and `EtagDamaged`.
        """
        schema = self._of(type)
        each = schema.field(field, cells.SET, cells.MAP)
        state = self._writable(schema, key)
        cell_key = (each.path, each.rule)
        delta = deltas.of_remove(
            each,
            schema.message_class,
            values,
            state.cells.get(cell_key),
            self._journal.origin,
            etags.read(etag, state, cell_key),
        )
        if delta is not None:
            self._amend(schema, key, {cell_key: delta})

    def increment(self, type: type[Message], key: str, field: str, by: int = 1) -> None:
        """Adds to a COUNTER or BOUNDED_COUNTER; `by` may be negative.

        Raises `NotFound` and `NotReplicated`; `RightsShort` if so much cannot be taken here now.
        """
        schema = self._of(type)
        each = schema.field(field, cells.COUNTER, cells.BOUNDED_COUNTER)
        state = self._writable(schema, key)
        if not by:
            return
        cell = state.cells.get((each.path, each.rule))
        if each.rule == cells.COUNTER:
            delta = cells.Counter.delta(cell, self._journal.origin, by)
            self._amend(schema, key, {(each.path, each.rule): delta})
            return
        rows = cell or {}
        if by > 0:
            changed: escrow.Rows | None = escrow.added(rows, self._journal.origin, by)
        else:
            changed = escrow.taken(rows, self._journal.origin, -by, self._journal.former)
        if changed is None:
            lives = (self._journal.origin, *self._journal.former)
            here = sum(escrow.rights(rows, life) for life in lives)
            entity = (schema.name, key)
            raise RightsShort(entity, field, -by, here, self.region, escrow.by_region(rows))
        self._amend_rows(schema, key, each, changed)

    def ask(self, type: type[Message], key: str, field: str, amounts: Mapping[str, int]) -> None:
        """Asks regions to hand over rights of a BOUNDED_COUNTER; they do when they hear of it.

        Raises `NotFound` and `NotReplicated`.
        """
        schema = self._of(type)
        each = schema.field(field, cells.BOUNDED_COUNTER)
        state = self._living(schema, key)
        rows = state.cells.get((each.path, each.rule), {})
        changed = escrow.asking(rows, self._journal.origin, amounts)
        self._amend_rows(schema, key, each, changed)

    def hand_over(self, type: type[Message], key: str) -> None:
        """Gives, as far as they are here, the rights that other regions asked this one for."""
        schema = self._of(type)
        entity = (schema.name, key)
        for each in schema.bounded:
            state = self._look(entity)
            if state is None or state.deleted:
                return
            rows = state.cells.get((each.path, each.rule), {})
            changed = escrow.answering(rows, self._journal.origin, self._journal.former)
            self._amend_rows(schema, key, each, changed)

    def delete(self, type: type[Message], key: str) -> None:
        """Ends an entity that lives; creating it again starts afresh. Raises `NotFound`."""
        schema = self._of(type)
        state = self._writable(schema, key)
        entity = (schema.name, key)
        self._apply(self._draft(entity, state.generation, DELETE, self._look(entity)))

    def move_home(self, type: type[Message], key: str, to: str, *, take: bool = False) -> None:
        """Makes another region the home of an entity, which then alone writes it.

        Its home gives it away, or, with `take`, a region takes it without asking: for a home that
        is lost. What that home writes until it hears of the move loses, in every region, and shows
        as a conflict. The values of HOME_REGION fields do not move: they stay where they were
        written, unseen until that region is the home again or the entity is deleted.
        Raises `NotFound`, `NotHome`, and `NotReplicated` if `to` is no region of the group, or if
        changes of the entity are parked here.
        """
        schema = self._of(type)
        self._living(schema, key)
        entity = (schema.name, key)
        state = self._look(entity)
        assert state is not None  # noqa: S101 # it lives
        if self._journal.parks(entity):
            raise NotReplicated(
                f"{schema.name} {key!r} has changes that this region's version cannot read, and so "
                "cannot move: move it from a region of a newer version"
            )
        origin, regions = self._journal.origin, self._journal.regions
        moved = residency.moving(schema, entity, state, to, origin, regions, take=take)
        if moved is not None:
            draft = self._draft(entity, moved[0], CREATE, state)
            draft.cells.update(moved[1])
            self._apply(draft)

    # The end.

    def finish(self, receipt: Receipt | None) -> Write:
        """The write that came of it. Raises `WriteTooLarge`."""
        residents, size = self._residents.finish()
        if residents and self._context.durability is not Durability.REGION:
            raise ResidentDurability(
                "HOME_REGION values are durable in their region alone, and the write was to be "
                f"so in {self._context.durability.value}: write them by themselves"
            )
        left = self._count
        parts: list[Columns] = []
        befores: list[EntityState | None] = []
        afters: list[EntityState] = []
        for made in self._made:
            left -= made.count
            columns = made.columns(self._context, left)
            parts.append(columns)
            befores += made.befores
            afters += made.afters
            size += sum(map(len, columns.contents)) + made.count * _CHANGE_OVERHEAD
            size += sum([len(key) for _, key in columns.entities])
        if receipt is not None:
            size += len(receipt.response) + len(receipt.digest)
        if size > MAX_WRITE:
            raise WriteTooLarge(
                f"one write of {size} bytes is beyond {MAX_WRITE}: split it into several"
            )
        discreet = self._schema.discreet
        return Write(joined(parts), befores, afters, receipt, size, self._seen, residents, discreet)

    def _check_unmoved(self, schema: EntitySchema, paths: tuple[str, ...]) -> None:
        if schema.home is not None and ".".join(schema.home.names) in paths:
            raise NotReplicated(f"{schema.home} is changed by a move alone: see `move_home`")

    def _amend_rows(
        self, schema: EntitySchema, key: str, each: FieldSchema, rows: escrow.Rows
    ) -> None:
        if rows:
            self._amend(schema, key, {(each.path, each.rule): cells.escrow.encode(rows)})

    def _amend(self, schema: EntitySchema, key: str, written: dict[CellKey, bytes]) -> None:
        entity = (schema.name, key)
        state = self._look(entity)
        assert state is not None  # noqa: S101 # it lives
        if schema.resident:
            staying = {cell: delta for cell, delta in written.items() if cell[0] in schema.resident}
            self._stay(entity, state.generation, staying)
            written = {cell: delta for cell, delta in written.items() if cell not in staying}
        if not written:
            return
        draft = self._latest.get(entity)
        # A later delta stands for the earlier one as well, except where deltas are parts.
        if draft is None or any(key in draft.cells and key[1] in _IN_PARTS for key in written):
            draft = self._draft(entity, state.generation, UPSERT, state)
        draft.cells.update(written)
        self._apply(draft)

    def _stay(self, entity: EntityKey, generation: int, staying: dict[CellKey, bytes]) -> None:
        if staying:
            stamp = self._journal.stamp(self.now_ms)
            self._residents.write(entity, generation, stamp, staying)

    def _draft(
        self, entity: EntityKey, generation: int, kind: int, before: EntityState | None
    ) -> _Draft:
        stamp = self._journal.stamp(self.now_ms)
        draft = _Draft(entity, generation, kind, stamp, before)
        self._made.append(draft)
        self._count += 1
        self._latest[entity] = draft
        return draft

    def _apply(self, draft: _Draft) -> None:
        self._after[draft.entity] = draft.apply(self._context)

    def _look(self, entity: EntityKey) -> EntityState | None:
        after = self._after.get(entity)
        return self._journal.look(entity) if after is None else after

    def _living(self, schema: EntitySchema, key: str) -> EntityState:
        """An entity with all that this region has of it. Raises `NotFound`."""
        state = self._look((schema.name, key))
        if state is None or state.deleted:
            raise NotFound(f"{schema.name} {key!r} does not exist")
        return self._whole(schema, key, state)

    def _writable(self, schema: EntitySchema, key: str) -> EntityState:
        state = self._living(schema, key)
        residency.check_home(schema, (schema.name, key), state, self.region)
        return state

    def _whole(self, schema: EntitySchema, key: str, state: EntityState) -> EntityState:
        if not schema.resident:
            return state
        section = self._residents.look((schema.name, key))
        return residency.whole(state, section, schema, self.region)

    def _of(self, type: type[Message]) -> EntitySchema:
        schema = self._schema.entity(type.DESCRIPTOR.full_name)
        if schema.message_class is not type:
            raise NotReplicated(f"{schema.name} is replicated under another generated class")
        return schema
