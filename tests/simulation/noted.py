"""Which conflicts a region must note: those of writes that had not seen one another, and no others.

The model knows what each writer had seen, so it needs no vectors or clocks for that. Stamps decide
which of several values stands, and only a frame tells what of a write came of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from mesh.replication.core.batches import Visible
from mesh.replication.core.cells import Stamp
from mesh.replication.core.conflicts import DELETED, Conflict
from mesh.replication.core.entities import DELETE, Change
from mesh.replication.core.frames import Frame
from tests.simulation.expected import Offer, keys, live, of_key
from tests.simulation.kinds import kind_of
from tests.simulation.model import Model, Violation

if TYPE_CHECKING:
    from tests.simulation.region import Region

_UNTOLD = -1
_GREATEST = ("latest", "max")


class Noted(NamedTuple):
    """A conflict: what is read and what stood against it, as numbers of writes.

    Of what a delete ended it is the last write to it, or the one that came too late.
    """

    key: str
    field: str
    read: int
    other: int


class Watch:
    """Follows what all regions note."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._stamps: dict[tuple[int, str], Stamp] = {}
        self._numbers: dict[Stamp, int] = {}
        self._fields: dict[tuple[int, str], set[str]] = {}
        self._lives: dict[tuple[str, int], set[int]] = {}

    def learn(self, frames: Iterable[Frame]) -> None:
        """These frames are on a disk; a process that starts reads them there."""
        for frame in frames:
            for change in filter(_is_shown, frame.changes):
                self._learn(change)

    def check(self, region: Region, visible: Visible) -> None:
        """A commit is about to become visible in a region: it must note all conflicts in it."""
        seen = self._model.held[region.name].writes
        expected: Counter[Noted] = Counter()
        possible: Counter[Noted] = Counter()
        for frame in visible.frames:
            for change in frame.changes:
                if _is_shown(change):
                    self._learn(change)
                    sure, perhaps = self._of(change, seen)
                    expected.update(sure)
                    possible.update(perhaps)
                if not change.writes_left:
                    seen |= 1 << int(change.actor)
        found = Counter(map(self._named, filter(_is_shown, visible.conflicts)))
        damaged = {entity[1] for entity in region.world.damaged}
        for noted in (expected - found) + (found - expected - possible):
            if noted.key not in damaged:
                what = "did not note" if expected[noted] > found[noted] else "noted"
                raise Violation(f"{region.name} {what} {noted}")

    def _learn(self, change: Change) -> None:
        number, key = int(change.actor), change.entity[1]
        kind = kind_of(key)
        schema = kind.schema.entities[kind.name]
        self._lives.setdefault((key, change.generation), set()).add(number)
        self._stamps[number, key] = change.stamp
        self._numbers[change.stamp] = number
        fields = self._fields.setdefault((number, key), set())
        fields.update(schema.name_of(path) for path, _ in change.shape)

    def _named(self, conflict: Conflict) -> Noted:
        key = conflict.entity[1]
        kind = kind_of(key)
        stamps = conflict.read.stamp, conflict.other.stamp
        numbers = [-1 if stamp is None else self._numbers.get(stamp, -1) for stamp in stamps]
        if conflict.rule == DELETED:
            return Noted(key, "", _UNTOLD, numbers[1])
        return Noted(key, kind.schema.entities[kind.name].name_of(conflict.path), *numbers)

    def _of(self, change: Change, seen: int) -> tuple[list[Noted], list[Noted]]:
        """What must be noted of a change where these writes are, and what may be."""
        number, key = int(change.actor), change.entity[1]
        generation, lives = self._model.generation(key, seen)
        if change.kind == DELETE:
            if not lives or generation != change.generation:
                return [], []
            offers = [each for each in self._lives[key, generation] if seen >> each & 1]
            past = self._model.past(number)
            unseen = [each for each in offers if not past >> each & 1]
            latest = max(offers, key=lambda each: self._stamps[each, key])
            noted = Noted(key, "", _UNTOLD, latest)
            return ([noted], []) if latest in unseen else ([], [noted] * bool(unseen))
        if change.generation < generation or (change.generation == generation and not lives):
            return [Noted(key, "", _UNTOLD, number)], []
        if change.generation > generation:
            return [], []
        return list(self._between(number, key, generation, seen)), []

    def _between(self, number: int, key: str, generation: int, seen: int) -> Iterator[Noted]:
        rules = kind_of(key).rules
        offers = self._model.offers(key, generation, seen)
        mine = self._model.offers(key, generation, 1 << number)
        for field in self._fields[number, key] & rules.keys():
            rule = rules[field][0]
            others = [
                offer
                for offer in offers.get(field, ())
                if field in self._fields.get((offer.number, key), ())
            ]
            for new in mine.get(field, ()):
                if rule in ("latest", "first", "max", "min"):
                    yield from self._ordered(key, field, rule, others, new)
                elif rule == "both":
                    yield from self._standing(key, field, live(others), new)
                elif rule == "map" and new.verb != "remove":
                    for name in keys([new]):
                        entries = live(of_key(others, name))
                        yield from self._standing(key, field, entries, *of_key([new], name))

    def _ordered(
        self, key: str, field: str, rule: str, others: list[Offer], new: Offer
    ) -> Iterator[Noted]:
        def rank(offer: Offer) -> object:
            stamp = self._stamps[offer.number, key]
            if rule in ("latest", "first"):
                return stamp
            # Of equal values the one that was offered first stands.
            early = (-stamp.clock, *stamp[1:]) if rule == "max" else stamp
            return offer.value, early

        if others:
            choose = max if rule in _GREATEST else min
            standing = choose(others, key=rank)
            if standing.value != new.value and not new.past >> standing.number & 1:
                read = choose((standing, new), key=rank)
                yield Noted(key, field, read.number, (standing if read is new else new).number)

    def _standing(self, key: str, field: str, standing: list[Offer], new: Offer) -> Iterator[Noted]:
        for old in standing:
            if old.value != new.value and not new.read >> old.number & 1:
                read = max(old, new, key=lambda each: self._stamps[each.number, key])
                yield Noted(key, field, read.number, (old if read is new else new).number)


def _is_shown(each: Change | Conflict) -> bool:
    """Whether it is of an entity that the model knows."""
    return not each.entity[0].startswith("isthmus.replication.")
