"""What must hold, told without a word of how the core does it.

The model knows each write: what it asked for, and which writes its writer could see. A set of
writes is the bits of an integer. From the set that a region shows, the model says what its entities
are; from nothing else. Positions in vectors stand for writes: which, the model learns where they
first come to light, and no position may ever stand for two.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mesh.replication.core.clocks import Origin, Vector
from mesh.replication.core.frames import Frame
from tests.simulation.expected import Expected, Offer, expected
from tests.simulation.kinds import kind_of


class Violation(Exception):
    """Something that must hold does not."""


class Op(NamedTuple):
    """What a write did to one entity: `verb` as in a script, values by field.

    `read` are the bits of what its writer had read, if that is less than what it saw.
    """

    key: str
    generation: int
    verb: str
    values: Mapping[str, Any]
    read: int | None = None


class Look(NamedTuple):
    """What a reader got of an entity: its etag, the bits of the writes behind it, and what not."""

    key: str
    generation: int
    etag: bytes | None
    seen: int
    hidden: frozenset[str]


@dataclass
class Planned:
    """A write: what it does, and the bits of all that its writer saw, itself included."""

    ops: list[Op]
    past: int


@dataclass
class Held:
    """What a region shows: the bits of its writes, and how far each origin is."""

    writes: int = 0
    reached: dict[Origin, int] = field(default_factory=dict)


class Model:
    """Follows all writes, and what each region holds."""

    def __init__(self, regions: Iterable[str]) -> None:
        self.held = {region: Held() for region in regions}
        self.acknowledged = 0
        self.refused = 0
        self.tokens: deque[tuple[Vector, int, str]] = deque(maxlen=16)
        """What readers took along: a token, the writes that they had seen, and where."""
        self.looks: dict[str, Look] = {}
        """What readers keep, by their names."""
        self._writes: list[Planned] = []
        self.operations: dict[str, int] = {}
        """By operation id, its attempts that were not answered by the result of another one."""
        self._disks_lost = False
        self.losses = 0
        """How many disks were replaced."""
        self._enduring: dict[int, int] = {}
        self._by_key: dict[str, int] = {}
        self._written: dict[str, int] = {}
        self._numbers: dict[tuple[Origin, int], int] = {}
        self._free: set[tuple[Origin, int]] = set()
        """The positions that no disk has any more; a snapshot under way may."""
        self._digests: dict[int, tuple[str, bytes]] = {}

    # Writers.

    def plan(self, seen: int) -> int:
        """A write by one who sees these writes: its number."""
        number = len(self._writes)
        self._writes.append(Planned([], seen | 1 << number))
        return number

    def wrote(self, region: str, number: int) -> None:
        """The write was made in this region."""
        self._written[region] = self.written_in(region) | 1 << number

    def written_in(self, region: str) -> int:
        """The writes that were made in a region."""
        return self._written.get(region, 0)

    def note(self, number: int, op: Op) -> None:
        """The write does this too."""
        self._writes[number].ops.append(op)
        self._by_key[op.key] = self._by_key.get(op.key, 0) | 1 << number

    def endures(self, bit: int, losses: int) -> None:
        """A write was acknowledged as on so many disks: it is there until all of them are lost."""
        self._enduring[bit] = self.losses + losses

    def all_keys(self) -> Iterable[str]:
        """All keys that any write named."""
        return tuple(self._by_key)

    def writes_of(self, key: str, region: str) -> int:
        """The writes to an entity that a region shows."""
        return self._by_key.get(key, 0) & self.held[region].writes

    # Regions.

    def shows(self, region: str, frames: Iterable[Frame]) -> None:
        """A commit made these frames visible in a region."""
        held = self.held[region]
        for frame in frames:
            expected = held.reached.get(frame.origin, 0) + 1
            if frame.first != expected:
                raise Violation(
                    f"{region} applied {frame.origin} at {frame.first}, not at {expected}: "
                    "a change was left out or applied twice"
                )
            held.reached[frame.origin] = frame.last
            for number in self._learn(frame):
                self._show(region, held, number)

    def _learn(self, frame: Frame) -> Iterator[int]:
        """The numbers of the writes in a frame, which their actor is."""
        for place, change in enumerate(frame.changes):
            number = int(change.actor)
            position = (frame.origin, frame.first + place)
            if position in self._free:
                self._free.discard(position)
                self._numbers[position] = number
            known = self._numbers.setdefault(position, number)
            if known != number:
                raise Violation(
                    f"{frame.origin} at {frame.first + place} is write {known} and write {number}"
                )
            if not change.writes_left:
                yield number

    def _show(self, region: str, held: Held, number: int) -> None:
        missing = self._writes[number].past & ~held.writes & ~(1 << number)
        if missing:
            raise Violation(
                f"{region} shows write {number} without {_named(missing)}, which its writer saw"
            )
        if self.refused >> number & 1:
            raise Violation(f"{region} shows write {number}, which was refused")
        held.writes |= 1 << number

    def restarted(
        self, region: str, frames: Iterable[Frame], vector: Vector, *, same_disk: bool
    ) -> None:
        """A region recovered from its disk, as of a vector; these frames are left there."""
        before = self.held[region]
        self.held[region] = Held()
        for frame in frames:
            for _ in self._learn(frame):
                pass
        self.reaches(region, vector)
        missing = before.writes & ~self.held[region].writes
        if same_disk and missing:
            raise Violation(f"{region} lost {_named(missing)} in a restart")

    def reaches(self, region: str, vector: Vector) -> None:
        """A snapshot made all up to a vector visible in a region at once."""
        held = self.held[region]
        came = 0
        for origin, last in vector.items():
            for sequence in range(held.reached.get(origin, 0) + 1, last + 1):
                if (origin, sequence) not in self._numbers:
                    raise Violation(f"{region} shows {origin} at {sequence}, which nobody had")
                came |= 1 << self._numbers[origin, sequence]
            held.reached[origin] = max(last, held.reached.get(origin, 0))
        held.writes |= came
        for number in _bits(came):
            self._show(region, held, number)

    def disk_lost(self, disks: Iterable[Vector]) -> None:
        """A region's disk was replaced: these vectors are what all disks hold now.

        What only the old one held may be gone, and its positions may be given anew.
        """
        held = list(disks)
        self._disks_lost = True
        writes = 0
        for (origin, sequence), number in self._numbers.items():
            if any(vector.get(origin, 0) >= sequence for vector in held):
                writes |= 1 << number
            else:
                self._free.add((origin, sequence))
        self.losses += 1
        for bit, most in self._enduring.items():
            if not writes & bit and self.losses < most:
                raise Violation(f"{_named(bit)} went with fewer disks than it was said to be on")
        self._enduring = {bit: most for bit, most in self._enduring.items() if writes & bit}
        self.acknowledged &= writes
        self.tokens.clear()
        self.looks.clear()

    def same_digest(self, region: str, digest: bytes) -> None:
        """Whoever shows the same writes has the same digest, at any time."""
        writes = self.held[region].writes
        other, known = self._digests.setdefault(writes, (region, digest))
        if known != digest:
            raise Violation(f"{region} and {other} show the same writes and differ in their state")

    def complete(self) -> None:
        """All regions show the same writes, and all that were acknowledged.

        Of the attempts of one operation there is one at most; with a disk, what was promised of an
        operation may be lost.
        """
        shown = {region: held.writes for region, held in self.held.items()}
        for id, attempts in self.operations.items():
            for writes in shown.values():
                if (attempts & writes).bit_count() > 1 and not self._disks_lost:
                    raise Violation(f"operation {id} took effect as {_named(attempts & writes)}")
        for region, writes in shown.items():
            missing = self.acknowledged & ~writes
            if missing:
                raise Violation(f"{region} lacks {_named(missing)}, which were acknowledged")
        if len(set(shown.values())) > 1:
            raise Violation("the regions show different writes after all faults were healed")

    # Entities.

    def generation(self, key: str, seen: int) -> tuple[int, bool]:
        """An entity's generation, 0 for none, and whether it lives."""
        latest, lives = 0, False
        for _, op in self._ops(key, seen):
            if op.generation > latest:
                latest, lives = op.generation, True
        for _, op in self._ops(key, seen):
            if op.generation == latest and op.verb == "delete":
                lives = False
        return latest, lives

    def entity(self, key: str, seen: int) -> Expected | None:
        """What an entity must be for one who sees these writes; None if it does not live."""
        generation, lives = self.generation(key, seen)
        if not lives:
            return None
        return expected(kind_of(key).rules, self.offers(key, generation, seen))

    def offers(self, key: str, generation: int, seen: int) -> dict[str, list[Offer]]:
        """By field, what these writes do to one life of an entity."""
        offers: dict[str, list[Offer]] = {}
        for number, op in self._ops(key, seen):
            if op.generation == generation:
                past = self._writes[number].past
                read = past if op.read is None else op.read
                for name, value in op.values.items():
                    offers.setdefault(name, []).append(Offer(number, op.verb, value, past, read))
        return offers

    def past(self, number: int) -> int:
        """The writes that a writer saw, and its own."""
        return self._writes[number].past

    def _ops(self, key: str, seen: int) -> Iterator[tuple[int, Op]]:
        left = seen & self._by_key.get(key, 0)
        while left:
            low = left & -left
            left ^= low
            number = low.bit_length() - 1
            for op in self._writes[number].ops:
                if op.key == key:
                    yield number, op


def _bits(writes: int) -> list[int]:
    return [n for n in range(writes.bit_length()) if writes >> n & 1]


def _named(writes: int) -> str:
    numbers = [str(n) for n in _bits(writes)]
    return f"write{'s' * (len(numbers) > 1)} {', '.join(numbers)}"
