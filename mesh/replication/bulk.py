"""Many entities written at once: the columns of a frame made straight from messages."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from functools import lru_cache

from google.protobuf.message import Message

from mesh.replication.core import generations, shapes
from mesh.replication.core.columns import Columns
from mesh.replication.core.entities import (
    CREATE,
    UPSERT,
    EntityKey,
    EntityState,
    lay_over,
    new_changed,
)
from mesh.replication.core.journal import Journal
from mesh.replication.core.shapes import Packed, Shape
from mesh.replication.deltas import SETTABLE
from mesh.replication.schema import EntitySchema
from mesh.replication.views import WriteContext


class Bulk:
    """Changes of many entities, all of one shape."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.entities: list[EntityKey] = []
        self.generations: list[int] = []
        self.kinds: list[int] = []
        self.clocks: Sequence[int] = ()
        self.contents: list[bytes] = []
        self.befores: list[EntityState | None] = []
        self.afters: list[EntityState] = []

    @property
    def count(self) -> int:
        """How many changes there are."""
        return len(self.entities)

    def columns(self, context: WriteContext, left: int) -> Columns:
        """The changes, with so many of their write to follow."""
        count = self.count
        return Columns(
            self.entities,
            self.generations,
            self.kinds,
            self.clocks,
            [context.actor] * count,
            [context.trace_parent] * count,
            [context.request_id] * count,
            range(left + count - 1, left - 1, -1),
            [self.shape] * count,
            self.contents,
        )


def shape_of(schema: EntitySchema, paths: tuple[str, ...]) -> Shape | None:
    """The shape of a write of these fields (none: all); None if they go another way one by one.

    Raises `NotReplicated`.
    """
    return None if schema.home is not None or schema.resident else _shape_of(schema, paths)


@lru_cache(maxsize=1024)
def _shape_of(schema: EntitySchema, paths: tuple[str, ...]) -> Shape | None:
    shape = shapes.shape_of((each.path, each.rule) for each in schema.named(paths, *SETTABLE))
    whole = bool(paths) or len(shape) == len(schema.fields)
    return shape if whole and shapes.places(shape) is not None else None


def upsert(
    journal: Journal,
    schema: EntitySchema,
    shape: Shape,
    messages: Sequence[Message],
    actor: str,
    now_ms: int,
    changed_here: MutableMapping[EntityKey, EntityState],
) -> Bulk:
    """Writes the fields of a plain shape of many entities.

    `changed_here` holds what the write changed before, and takes what is changed now. Raises
    `NotReplicated` for a message without a key, or of another type.
    """
    made = Bulk(shape)
    keys = schema.keys_of(messages)
    first = journal.clock.reserve(len(messages), now_ms)
    made.clocks = range(first, first + len(messages))
    made.entities = [(schema.name, key) for key in keys]
    made.contents = _contents(schema, shape, keys, messages)
    region, incarnation = journal.origin
    look, here = journal.look, changed_here.get
    clock_ms = journal.clock_ms(now_ms)
    for entity, clock, content in zip(made.entities, made.clocks, made.contents, strict=True):
        before = here(entity) or look(entity)
        begins = before is None or before.deleted
        if before is None or before.deleted:
            last = 0 if before is None else before.generation
            generation = generations.last_before(last, clock_ms) + 1
        else:
            generation = before.generation
        changed = new_changed((clock, region, incarnation, actor))
        after = lay_over(before, generation, changed, Packed(shape, changed, content))
        made.generations.append(generation)
        made.kinds.append(CREATE if begins else UPSERT)
        made.befores.append(before)
        made.afters.append(after)
        changed_here[entity] = after
    return made


def _contents(
    schema: EntitySchema, shape: Shape, keys: Sequence[str], messages: Sequence[Message]
) -> list[bytes]:
    """The fields of a shape in each message, and nothing else that is in it."""
    if not schema.is_all_but_the_key(shape):
        return [b"".join(shapes.split(shape, schema.encoded(message))) for message in messages]
    found = []
    for key, message in zip(keys, messages, strict=True):
        message.DiscardUnknownFields()
        found.append(schema.encoded(message)[schema.key_length(key) :])
    return found
