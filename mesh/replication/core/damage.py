"""What was found damaged, and what other regions offer for it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from isthmus.replication.v1 import digest_pb2, frame_pb2

from mesh.replication.core.clocks import Origin, Vector
from mesh.replication.core.entities import EntityKey, EntityState

MEMORY = digest_pb2.CORRUPTION_KIND_MEMORY
STORED_STATE = digest_pb2.CORRUPTION_KIND_STORED_STATE
STORED_FRAME = digest_pb2.CORRUPTION_KIND_STORED_FRAME
DIVERGENCE = digest_pb2.CORRUPTION_KIND_DIVERGENCE

MOST_REMEMBERED = 100
MOST_LISTED = 100

FramePlace = tuple[Origin, int]
"""A frame by its origin and first change."""


class Offer(NamedTuple):
    """An entity as a peer has it at a vector; None where it has none."""

    vector: Vector
    state: EntityState | None


@dataclass
class Damage:
    """Something that is not as it was written: `what` is an entity or a frame."""

    kind: digest_pb2.CorruptionKind.ValueType
    what: EntityKey | FramePlace
    found_ms: int
    detail: str
    repaired_ms: int | None = None
    offers: dict[str, Offer] = field(default_factory=dict)
    frames: dict[str, frame_pb2.Frame] = field(default_factory=dict)

    @property
    def entity(self) -> EntityKey | None:
        """The entity, if it is one."""
        first, second = self.what
        return (first, second) if isinstance(first, str) and isinstance(second, str) else None

    @property
    def frame(self) -> FramePlace | None:
        """The frame, if it is one."""
        first, second = self.what
        return (first, second) if isinstance(first, Origin) and isinstance(second, int) else None

    def __str__(self) -> str:
        first, second = self.what
        what = f"{first}/{second}" if self.entity else f"frame {first} at {second}"
        return f"{what}: {self.detail}"


class Damages:
    """All that was found damaged. Of one entity, in memory or on disk, one is open at a time."""

    def __init__(self) -> None:
        self.found = 0
        self.repaired = 0
        self._open: dict[tuple[bool, EntityKey | FramePlace], Damage] = {}
        self._mended: deque[Damage] = deque(maxlen=MOST_REMEMBERED)
        self._unsaid: deque[Damage] = deque(maxlen=MOST_REMEMBERED)

    def add(
        self,
        kind: digest_pb2.CorruptionKind.ValueType,
        what: EntityKey | FramePlace,
        now_ms: int,
        detail: str,
    ) -> None:
        """Something is damaged; once it is known, finding it again adds nothing."""
        key = (kind == STORED_STATE, what)
        if key in self._open:
            return
        damage = self._open[key] = Damage(kind, what, now_ms, detail)
        self.found += 1
        self._unsaid.append(damage)

    def mend(self, damage: Damage, now_ms: int) -> None:
        """It is repaired."""
        if self._open.pop((damage.kind == STORED_STATE, damage.what), None) is not None:
            damage.repaired_ms = now_ms
            damage.offers.clear()
            damage.frames.clear()
            self.repaired += 1
            self._mended.append(damage)
            self._unsaid.append(damage)

    def to_say(self) -> Iterator[Damage]:
        """Those that were found or mended since this was asked last, for the log."""
        while self._unsaid:
            yield self._unsaid.popleft()

    @property
    def open(self) -> Mapping[tuple[bool, EntityKey | FramePlace], Damage]:
        """Those that are not repaired, by whether it is a stored state, and what."""
        return self._open

    def in_memory(self, entity: EntityKey) -> Damage | None:
        """An entity's damage that takes other regions' states to repair."""
        return self._open.get((False, entity))

    def is_divergence(self, entity: EntityKey) -> bool:
        """Whether an entity holds what was hashed, and another region holds something else."""
        damage = self.in_memory(entity)
        return damage is not None and damage.kind == DIVERGENCE

    def stored(self) -> list[Damage]:
        """Stored states that are damaged."""
        return [damage for (stored, _), damage in self._open.items() if stored]

    def wanted(self) -> list[Damage]:
        """Those for which other regions are asked."""
        return [damage for (stored, _), damage in self._open.items() if not stored]

    def status(self) -> list[digest_pb2.Corruption]:
        """What is open, and the newest that was mended; bounded."""
        listed = [*list(self._open.values())[:MOST_LISTED], *reversed(self._mended)]
        return [_to_proto(damage) for damage in listed[:MOST_LISTED]]


def _to_proto(damage: Damage) -> digest_pb2.Corruption:
    message = digest_pb2.Corruption(kind=damage.kind, detail=damage.detail)
    message.found.FromMilliseconds(damage.found_ms)
    if damage.repaired_ms is not None:
        message.repaired.FromMilliseconds(damage.repaired_ms)
    if damage.entity is not None:
        message.entity.type, message.entity.key = damage.entity
    elif damage.frame is not None:
        origin, first = damage.frame
        message.frame.origin.region, message.frame.origin.incarnation = origin
        message.frame.sequence = first
    return message
