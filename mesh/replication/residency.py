"""Homes and HOME_REGION fields, seen from writers and readers: who may write, and who is shown."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TypeVar

from google.protobuf.message import Message

from mesh.replication.core import entities, generations, homes
from mesh.replication.core.cells import FIRST, RULES, Stamp
from mesh.replication.core.clocks import Origin
from mesh.replication.core.entities import EntityKey, EntityState
from mesh.replication.core.journal import Journal
from mesh.replication.core.members import ENTITY as MEMBERS
from mesh.replication.core.residents import Resident, Residents, written
from mesh.replication.core.shapes import CellKey
from mesh.replication.errors import NotHome, NotReplicated, WriteTooLarge
from mesh.replication.schema import EntitySchema

M = TypeVar("M", bound=Message)


def whole(
    state: EntityState, section: EntityState | None, schema: EntitySchema, region: str
) -> EntityState:
    """An entity as its region's readers see it: with its section, if the region is its home.

    What stands in the group's own state for such a field is not shown anywhere: a region whose
    contract lets it write the field everywhere wrote it.
    """
    if not schema.resident:
        return state
    cells = {key: cell for key, cell in state.cells.items() if key[0] not in schema.resident}
    if (
        section is not None
        and section.generation == homes.life(state.generation)
        and (schema.home is None or homes.home_of(state, schema.home.path) == region)
    ):
        shown = section.cells.items()
        cells |= {key: cell for key, cell in shown if key[0] in schema.resident}
    return state._replace(cells=cells)


def check_home(schema: EntitySchema, entity: EntityKey, state: EntityState, region: str) -> None:
    """Raises `NotHome` if another region writes an entity."""
    if schema.home is not None:
        home = homes.home_of(state, schema.home.path)
        if home != region:
            raise NotHome(entity, home, region)


def check_home_of(schema: EntitySchema, journal: Journal, key: str) -> None:
    """Raises `NotHome` if another region writes an entity that lives."""
    entity = (schema.name, key)
    state = journal.committed.get(entity)
    if state is not None and not state.deleted:
        check_home(schema, entity, state, journal.region)


def at_home(schema: EntitySchema, message: M, region: str) -> M:
    """A message that is to be created, with its home. Raises `NotHome` if that is elsewhere."""
    if schema.home is None:
        return message
    name = schema.home.names[-1]
    home = getattr(message, name)
    if home == region:
        return message
    if home:
        raise NotHome((schema.name, schema.key_of(message)), home, region)
    settled = type(message)()
    settled.CopyFrom(message)
    setattr(settled, name, region)
    return settled


def generation_of_new(
    schema: EntitySchema, before: EntityState | None, region: str, clock_ms: int
) -> int:
    """The generation of an entity that is created here, after what was there before."""
    if schema.name == MEMBERS[0]:
        return 1  # It is never deleted; and whoever creates it at once writes to one table.
    last = generations.last_before(0 if before is None else before.generation, clock_ms)
    if schema.home is None:
        return last + 1
    if homes.life(last) >= homes.MOST_LIVES:
        raise WriteTooLarge(
            f"a {schema.name} was deleted and created under one key {homes.MOST_LIVES} times: "
            "take another key"
        )
    return homes.created(last, region)


def moving(
    schema: EntitySchema,
    entity: EntityKey,
    state: EntityState,
    to: str,
    origin: Origin,
    regions: Collection[str],
    *,
    take: bool,
) -> tuple[int, dict[CellKey, bytes]] | None:
    """The generation and the cells by which an entity moves; None if it is there already.

    Raises `NotReplicated` and `NotHome`.
    """
    if schema.home is None:
        raise NotReplicated(f"{schema.name} has no home: any region writes it")
    if to not in regions:
        raise NotReplicated(
            f"{to!r} is no region of this group; its regions are {', '.join(sorted(regions))}"
        )
    home = homes.home_of(state, schema.home.path)
    if home == to:
        return None
    if origin.region != home and not (to == origin.region and (take or not home)):
        raise NotHome(entity, home, origin.region)
    if any(rule not in RULES for _, rule in state.cells):
        raise NotReplicated(
            f"{schema.name} {entity[1]!r} holds changes that this version cannot read: move its "
            "home from a region of a newer version"
        )
    message = schema.message_class()
    setattr(message, schema.home.names[-1], to)
    deltas = homes.anew(state.cells, origin)
    deltas[schema.home.path, FIRST] = schema.home.value(message)
    return homes.moved(state.generation, to), deltas


class Writing:
    """What a transaction writes into the region's section, entity by entity."""

    def __init__(self, section: Residents, actor: str) -> None:
        self._section = section
        self._actor = actor
        self._after: dict[EntityKey, EntityState] = {}

    def look(self, entity: EntityKey) -> EntityState | None:
        """The section of an entity as the transaction sees it."""
        return self._after.get(entity) or self._section.look(entity)

    def write(
        self, entity: EntityKey, generation: int, stamp: Stamp, deltas: Mapping[CellKey, bytes]
    ) -> None:
        """Writes deltas to an entity of that generation."""
        life = homes.life(generation)
        before = self.look(entity)
        if before is not None and before.generation != life:
            before = None
        self._after[entity] = written(before, entity, life, stamp, self._actor, deltas)

    def finish(self) -> tuple[tuple[Resident, ...], int]:
        """What is to be stored, and about how many bytes that is."""
        parts = tuple(Resident(entity, after) for entity, after in self._after.items())
        return parts, sum(len(entities.encode(part.after)) for part in parts)
