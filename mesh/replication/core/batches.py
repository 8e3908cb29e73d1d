"""What goes through a journal: writes, what one commit holds, and what that makes visible."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from mesh.replication.core.clocks import Origin, Vector, milliseconds
from mesh.replication.core.columns import Columns
from mesh.replication.core.conflicts import Noted
from mesh.replication.core.damage import FramePlace
from mesh.replication.core.entities import EntityKey, EntityState
from mesh.replication.core.frames import Frame, StoredFrame
from mesh.replication.core.receipts import Receipt
from mesh.replication.core.residents import Resident, Settled
from mesh.replication.core.signatures import Key
from mesh.replication.core.snapshots import Staged, Staging


class Seen(NamedTuple):
    """How far the region was, and the clock of the last change of each origin there."""

    vector: Vector
    clocks: Vector


@dataclass
class Write:
    """Changes that become visible together. `size` approximates their bytes in a frame.

    `columns` are the changes; `befores` and `afters` what its writer saw of each one's entity.
    `seen` is what was here when they were made; None is what is here when they are stored.
    `residents` go into the region's own section alone. Of a `discreet` write the receipt travels
    without what was asked and answered. Its number is the journal's.
    """

    columns: Columns
    befores: Sequence[EntityState | None]
    afters: Sequence[EntityState]
    receipt: Receipt | None
    size: int
    seen: Seen | None = None
    residents: Sequence[Resident] = ()
    discreet: bool = False
    number: int = 0

    @property
    def count(self) -> int:
        """How many changes it has."""
        return len(self.columns.entities)


@dataclass
class Batch:
    """What one commit holds; `vector` is how far the region is once it is stored.

    `settled` is what becomes of the section of HOME_REGION cells; `staging` is what it does to a
    snapshot that comes in; `keys` are those that came to be known since the last commit.
    """

    frames: list[Frame]
    writes: list[Write]
    vector: Vector
    receipts: list[Receipt]
    local: Frame | None
    merged: Visible = field(default_factory=lambda: Visible())
    staging: Staging | None = None
    settled: Settled = field(default_factory=dict)
    keys: tuple[Key, ...] = ()

    @property
    def residents(self) -> list[Resident]:
        """What its writes put into the section of HOME_REGION cells."""
        return [part for write in self.writes for part in write.residents]


@dataclass
class Visible:
    """What a commit makes visible: of each entity its state before and after.

    `idle` are entities with a change that has no effect on them as they are here: if that is not
    what they should be, the change counts, so their state is stored, by which it is looked at.
    `living` is by how many more entities live; `conflicts` are the concurrent values between which
    merging decided; `lost` are local writes that came behind the decision that the region leaves
    its group; `residents` are the sections of HOME_REGION cells that change, as they were before;
    `doubled` are results of operations that another region had done too.
    """

    before: dict[EntityKey, EntityState | None] = field(default_factory=dict)
    after: dict[EntityKey, EntityState] = field(default_factory=dict)
    living: int = 0
    frames: list[Frame] = field(default_factory=list)
    conflicts: Noted = field(default_factory=Noted)
    lost: list[Write] = field(default_factory=list)
    residents: Settled = field(default_factory=dict)
    doubled: list[Receipt] = field(default_factory=list)
    idle: Collection[EntityKey] = ()


@dataclass
class Recovered:
    """What a store held when it was opened; empty for a new one.

    `clocks` are those of the last change of each origin, `signatures` those of each origin's head,
    `keys` the statements that introduce the keys.
    `replayed` are the entities whose stored state is behind `states`; `fingerprints` are those of
    states as stored; `damaged` are entities whose stored state is not what its checksum says, and
    what that is.
    `staged` is a snapshot that had come in part. `gone` are entities that are stored and no longer
    there; `parked` are those in which something waits for a newer version. `cut` are the frames,
    by origin and first change, before which the journal had to be cut: they are damaged or missing;
    `loose` are frames behind that.
    """

    states: dict[EntityKey, EntityState] = field(default_factory=dict)
    vector: Vector = field(default_factory=dict)
    heads: dict[Origin, bytes] = field(default_factory=dict)
    clock: int = 0
    clocks: Vector = field(default_factory=dict)
    replayed: set[EntityKey] = field(default_factory=set)
    fingerprints: dict[EntityKey, int] = field(default_factory=dict)
    damaged: dict[EntityKey, int] = field(default_factory=dict)
    residents: dict[EntityKey, EntityState] = field(default_factory=dict)
    staged: Staged | None = None
    gone: set[EntityKey] = field(default_factory=set)
    parked: set[EntityKey] = field(default_factory=set)
    signatures: dict[Origin, bytes] = field(default_factory=dict)
    keys: list[bytes] = field(default_factory=list)
    cut: list[FramePlace] = field(default_factory=list)
    loose: list[StoredFrame] = field(default_factory=list)


def receipt_of(write: Write) -> Receipt:
    """A write's receipt, of the time that it has in every region: that of its last change."""
    assert write.receipt is not None  # noqa: S101 # its caller looked
    if not write.count:
        return write.receipt
    return write.receipt._replace(time_ms=milliseconds(write.columns.clocks[-1]))


def receipts_of(writes: Iterable[Write]) -> Iterator[tuple[int, Receipt]]:
    """Each receipt with the index of its write's last change; a write without changes has none."""
    at = -1
    for write in writes:
        at += write.count
        if write.receipt is not None and write.count:
            yield at, write.receipt.bare() if write.discreet else write.receipt
