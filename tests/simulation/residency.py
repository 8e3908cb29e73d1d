"""A field that stays where it is written: its values, and the search for them elsewhere.

Any region may write it here, and each sees its own values alone. So every write of it says
something about the section of HOME_REGION cells, whatever else goes on.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from google.protobuf.message import Message

from mesh.contracts.model import Entity, Field, Merge
from mesh.replication.core.batches import Write
from mesh.replication.membership import ENTITY as MEMBERS
from mesh.replication.residency import whole
from mesh.replication.schema import GroupSchema
from tests.simulation.kinds import class_of
from tests.simulation.model import Violation
from tests.support.items import ENTITY as ITEM
from tests.support.merging import ENTITY as THING
from tests.support.regions import CHANNEL, contract

if TYPE_CHECKING:
    from tests.simulation.region import Region

FIELD = "home_region"
MARK = b"stays-"
"""How each value of it begins; then the name of its region."""

Values = dict[str, tuple[int, str]]
"""What a write gives the field, by the key of the entity, with its generation."""


def _entities(*without: str, stays: bool) -> list[Entity]:
    field = Field(FIELD, 3, (3,), Merge.LATEST, resident=stays)
    found = contract(*without).group_entities("channels")
    found = [replace(entity, fields=(*entity.fields, field)) for entity in found]
    thing = replace(THING, fields=tuple(each for each in THING.fields if each.name not in without))
    return [*found, thing, ITEM]


def newest() -> GroupSchema:
    """The merge schema of the newest contract."""
    return GroupSchema((*_entities(stays=True), MEMBERS), class_of)


def older() -> GroupSchema:
    """That of one which does not have two of the fields yet, and sends this one everywhere."""
    return GroupSchema((*_entities("profile", "labels", stays=False), MEMBERS), class_of)


NEWEST = newest()


def search(where: str, data: bytes, allowed: str = "") -> None:
    """Raises `Violation` if values are in some bytes, of other regions than the one allowed."""
    at = data.find(MARK)
    while at >= 0:
        if not allowed or not data.startswith(f"{allowed}-".encode(), at + len(MARK)):
            raise Violation(f"{where} holds what stays elsewhere: {data[at : at + 20]!r}")
        at = data.find(MARK, at + 1)


def search_message(where: str, message: object) -> None:
    """The same, for what goes from one region to another."""
    if isinstance(message, Message):
        search(where, message.SerializeToString())


class Stays:
    """What the field must be in one region."""

    def __init__(self) -> None:
        self._expected: Values = {}
        self._pending: dict[int, Values] = {}

    def begun(self, write: Write, values: Values) -> None:
        """A write is queued."""
        if values:
            self._pending[id(write)] = values

    def ended(self, write: Write, *, stored: bool) -> None:
        """A write is durable, or lost and known to be."""
        values = self._pending.pop(id(write), {})
        if stored:
            self._expected |= values

    def killed(self) -> None:
        """What was under way may be there or not."""
        for values in self._pending.values():
            for key in values:
                self._expected.pop(key, None)
        self._pending.clear()

    def disk_replaced(self) -> None:
        """Nothing is known any more."""
        self._expected.clear()

    def check(self, region: Region) -> None:
        """Readers see the last value of the entity's life, and no other is kept."""
        journal = region.journal
        for entity, section in journal.residents.committed.items():
            if region.damage.concerns(entity[1]) or entity in journal.residents.doubted:
                continue
            state = journal.committed[entity]
            if state.deleted or state.generation != section.generation:
                raise Violation(f"{region.name} keeps values of {entity[1]} beyond its life")
        for key, (generation, value) in self._expected.items():
            state = journal.committed.get((CHANNEL, key))
            if state is None or state.deleted or region.damage.concerns(key):
                continue
            section = journal.residents.committed.get((CHANNEL, key))
            shown = whole(state, section, NEWEST.entities[CHANNEL], region.name)
            cells = [cell[3] for (path, _), cell in shown.cells.items() if path == b"\3"]
            found = cells[0][2:].decode() if cells and cells[0] else ""
            expected = value if state.generation == generation else ""
            if found != expected:
                raise Violation(f"{region.name} shows {found!r} of {key}, not {expected!r}")

    def check_disk(self, region: Region) -> None:
        """What stays elsewhere is not on the disk, and what stays here is in its place alone."""
        for record in region.disk.records:
            for frame in record.frames:
                search(f"the journal of {region.name}", frame.body)
            for data, _ in record.states.values():
                search(f"the state of {region.name}", data)
            for resident in record.residents.values():
                search(f"the section of {region.name}", resident or b"", region.name)
