"""Many entities written at once: the columns of a frame made straight from messages."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from functools import lru_cache
from itertools import repeat

from google.protobuf.message import Message

from mesh.replication.core import generations, shapes
from mesh.replication.core.columns import Columns
from mesh.replication.core.entities import (
    CREATE,
    UPSERT,
    EntityKey,
    EntityState,
    changes_of,
    lay_over,
    replacing,
)
from mesh.replication.core.journal import Journal
from mesh.replication.core.shapes import Packed, Shape
from mesh.replication.deltas import SETTABLE
from mesh.replication.schema import EntitySchema
from mesh.replication.views import WriteContext


class Bulk:
    """Changes of many entities, all of one shape."""

    def __init__(self, shape: Shape, entities: list[EntityKey], clocks: Sequence[int]) -> None:
        self.shape = shape
        self.entities = entities
        self.clocks = clocks
        self.kinds = [UPSERT] * len(entities)
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
            [after[0] for after in self.afters],
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
    keys = schema.keys_of(messages)
    first = journal.clock.reserve(len(messages), now_ms)
    made = Bulk(shape, list(zip(repeat(schema.name), keys)), range(first, first + len(messages)))
    made.contents = _contents(schema, shape, messages)
    changeds = changes_of(journal.origin, made.clocks, repeat(actor))
    befores = list(map(changed_here.get, made.entities, journal.look_all(made.entities)))
    generations_here = [0 if before is None else before[0] for before in befores]
    states = replacing(befores, generations_here, changeds, repeat(shape, len(keys)), made.contents)
    if all(states):
        made.befores, made.afters = befores, states  # type: ignore[assignment] # there is no None
        changed_here.update(zip(made.entities, made.afters, strict=True))
        return made
    clock_ms = journal.clock_ms(now_ms)
    for at, (entity, changed, content, standing) in enumerate(
        zip(made.entities, changeds, made.contents, befores, strict=True)
    ):
        before = changed_here.get(entity, standing)
        cells = Packed(shape, changed, content)
        if before is None or before[1]:
            last = 0 if before is None else before.generation
            generation = generations.last_before(last, clock_ms) + 1
            made.kinds[at] = CREATE
        else:
            generation = before[0]
        after = lay_over(before, generation, changed, cells)
        made.befores.append(before)
        made.afters.append(after)
        changed_here[entity] = after
    return made


def _contents(schema: EntitySchema, shape: Shape, messages: Sequence[Message]) -> list[bytes]:
    """The fields of a shape in each message, and nothing else that is in it."""
    if not schema.is_all_but_the_key(shape):
        return [b"".join(shapes.split(shape, each)) for each in schema.encoded(messages)]
    for message in messages:
        message.DiscardUnknownFields()
    return schema.without_keys(schema.encoded(messages))
