"""What was found damaged, and what other regions offer for it."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from isthmus.replication.v1 import digest_pb2

from mesh.replication.core.clocks import Origin, Vector
from mesh.replication.core.entities import EntityKey, EntityState
from mesh.replication.core.frames import Frame

MEMORY = digest_pb2.CORRUPTION_KIND_MEMORY
STORED_STATE = digest_pb2.CORRUPTION_KIND_STORED_STATE
STORED_FRAME = digest_pb2.CORRUPTION_KIND_STORED_FRAME
DIVERGENCE = digest_pb2.CORRUPTION_KIND_DIVERGENCE

PATIENCE_MS = 60_000
"""After that an entity is taken as others have it, though its last changes may be missing."""

MOST_REMEMBERED = 100
MOST_LISTED = 100

MOST_BEHIND = 5
"""So often a peer offers what is older than a snapshot that came, before that is its last word.

Answers are counted, not the time: all that the snapshot holds is on its way to the peer too, and
clocks jump.
"""

LONGEST_STEP_MS = 1000
"""What counts at most from one look at a damage to the next, whatever the clock says."""

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
    from_peers: bool
    """Whether it takes other regions to repair it; else what is in memory is right."""
    right: int | None = None
    """The fingerprint of an entity's state when it was whole, if that is known.

    The journal holds what changed since: no state is stored of what is damaged, nor a watermark.
    """
    cut: Vector | None = None
    """Of what moment a snapshot came since: the journal does not go back to when it was whole."""
    repaired_ms: int | None = None
    offers: dict[str, Offer] = field(default_factory=dict)
    older: dict[str, Offer] = field(default_factory=dict)
    """By peer what it offered last that the journal here does not follow from."""
    behind: Counter[str] = field(default_factory=Counter)
    """By peer how often it offered what is older than that snapshot."""
    helpless: set[str] = field(default_factory=set)
    """The peers in which it is damaged as well."""
    frames: dict[str, Frame] = field(default_factory=dict)
    waited_ms: int = 0
    """How long a repair has been tried; a jump of the clock, or a pause, makes it no longer."""
    looked_ms: int | None = None

    def look(self, now_ms: int) -> None:
        """A repair is tried."""
        if self.looked_ms is not None:
            self.waited_ms += min(max(now_ms - self.looked_ms, 0), LONGEST_STEP_MS)
        self.looked_ms = now_ms

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
    """All that was found damaged; what is known already is not counted again."""

    def __init__(self) -> None:
        self.found = 0
        self.repaired = 0
        self._open: dict[bool, dict[EntityKey | FramePlace, Damage]] = {True: {}, False: {}}
        self._mended: deque[Damage] = deque(maxlen=MOST_REMEMBERED)
        self._unsaid: deque[str] = deque(maxlen=MOST_REMEMBERED)

    def add(
        self,
        kind: digest_pb2.CorruptionKind.ValueType,
        what: EntityKey | FramePlace,
        now_ms: int,
        detail: str,
        *,
        from_peers: bool = True,
        right: int | None = None,
    ) -> None:
        """Something is damaged; `right` is the fingerprint of an entity's state before."""
        known = self._open[from_peers]
        if what in known:
            if kind == MEMORY and known[what].kind == DIVERGENCE:
                # Its own state does not count any more, and what it was is not sure.
                known[what].kind = kind
            return
        damage = known[what] = Damage(kind, what, now_ms, detail, from_peers, right)
        self.found += 1
        self._unsaid.append(f"damaged: {damage}")

    def mend(self, damage: Damage, now_ms: int) -> None:
        """It is repaired."""
        if self._open[damage.from_peers].pop(damage.what, None) is not None:
            damage.repaired_ms = now_ms
            damage.offers.clear()
            damage.older.clear()
            damage.frames.clear()
            self.repaired += 1
            self._mended.append(damage)
            self._unsaid.append(f"repaired: {damage}")

    def cut_off(self, vector: Vector) -> None:
        """A snapshot was installed, over what is damaged as well; the region is at `vector`."""
        for damage in self._open[True].values():
            damage.cut = vector
            damage.offers.clear()
            damage.older.clear()
            damage.behind.clear()

    def to_say(self) -> Iterator[str]:
        """What was found and mended since this was asked last, for the log."""
        while self._unsaid:
            yield self._unsaid.popleft()

    def wanted(self, what: EntityKey | FramePlace) -> Damage | None:
        """The damage of an entity or a frame for which other regions are asked."""
        return self._open[True].get(what)

    def is_divergence(self, entity: EntityKey) -> bool:
        """Whether an entity holds what was hashed, and another region holds something else."""
        damage = self.wanted(entity)
        return damage is not None and damage.kind == DIVERGENCE

    @property
    def repairing(self) -> bool:
        """Whether the state of some entity was found damaged, and is not repaired yet."""
        return any(
            damage.entity and damage.kind != DIVERGENCE for damage in self._open[True].values()
        )

    def open(self, *, from_peers: bool) -> list[Damage]:
        """What is not repaired: what takes other regions, or what memory knows."""
        return list(self._open[from_peers].values())

    @property
    def mended(self) -> Sequence[Damage]:
        """The newest of those that were repaired, the oldest first."""
        return self._mended

    def status(self) -> list[digest_pb2.Corruption]:
        """What is open, and the newest that was mended; bounded."""
        open = [*self._open[True].values(), *self._open[False].values()]
        listed = [*open[:MOST_LISTED], *reversed(self._mended)]
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
