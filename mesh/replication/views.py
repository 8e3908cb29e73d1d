"""What the façade hands out and takes: plain values, no machinery."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from google.protobuf.message import Message

from mesh.contracts.model import Durability
from mesh.replication.core.clocks import Origin, Vector, milliseconds
from mesh.replication.core.frames import Frame

MessageClass = type[Message]


@dataclass(frozen=True)
class WriteContext:
    """What a write carries: who asked for it, under which trace, as which operation.

    With a `request_id` the write's result is kept for a day under (actor, method, request_id), and
    a repeat returns it. `request_digest` tells a repeat from another request under the same id.
    `repeated` says that it was sent before, perhaps to another region, which may have done it.
    It is acknowledged once `durability` is reached, which is waited for until `deadline` (seconds
    on the group's monotonic clock; None: for ever).
    """

    actor: str
    trace_parent: str = ""
    request_id: str = ""
    method: str = ""
    request_digest: bytes = b""
    repeated: bool = False
    durability: Durability = Durability.REGION
    deadline: float | None = None


@dataclass(frozen=True)
class LastChange:
    """Who changed an entity last, from where, and when (milliseconds since 1970)."""

    actor: str
    origin: Origin
    time_ms: int


@dataclass(frozen=True)
class View:
    """An entity as this region sees it; `value` is its serialized message, empty if deleted.

    `shared` is the same without what stays in its home region, if anything does.
    """

    type: str
    key: str
    generation: int
    deleted: bool
    last_change: LastChange
    value: bytes = field(repr=False)
    message_class: MessageClass = field(repr=False, compare=False)
    shared: bytes | None = field(default=None, repr=False)

    @cached_property
    def message(self) -> Message:
        """The entity, parsed once and shared: do not change it. Empty if deleted."""
        return self.message_class.FromString(self.value)


@dataclass(frozen=True)
class EntityChange:
    """An entity that changed: how it was (None if it was never seen) and how it is."""

    old: View | None
    new: View


@dataclass(frozen=True)
class Reach:
    """Whether a region is heard, and when it was last (milliseconds since 1970; None: never)."""

    reachable: bool
    last_heard_ms: int | None


@dataclass(frozen=True)
class Snapshot:
    """Every living entity that is watched, by type and key. Comes first, and again after a gap."""

    entities: tuple[View, ...]
    reach: Mapping[str, Reach]
    vector: Vector


@dataclass(frozen=True)
class Value:
    """A value and where and when it was written (milliseconds since 1970).

    `message` is an entity that holds this value alone, without its key. Origin and time are None
    where nobody knows any more who wrote it. In a feed the fields that are `redacted` are left out.
    """

    origin: Origin | None
    time_ms: int | None
    message: Message
    redacted: tuple[str, ...] = ()


@dataclass(frozen=True)
class ConflictView:
    """Two values that were written at once, and the rule that decided between them.

    `read` is what readers are given since. Under the rules DELETE and HOME it is empty, `field` is
    the empty string, and `other` holds the fields that a delete, or a move of the home, ended
    unseen.
    """

    type: str
    key: str
    generation: int
    field: str
    rule: str
    read: Value
    other: Value


@dataclass(frozen=True)
class Batch:
    """Entities that became visible together, and the conflicts that were decided with them."""

    changes: tuple[EntityChange, ...]
    conflicts: tuple[ConflictView, ...] = ()


@dataclass(frozen=True)
class ReachChanged:
    """How the group's regions stand now."""

    reach: Mapping[str, Reach]


WatchEvent = Snapshot | Batch | ReachChanged


@dataclass(frozen=True)
class ChangeRecord:
    """One change in an entity's history. `fields` names what it wrote; empty if it deleted."""

    actor: str
    origin: Origin
    time_ms: int
    generation: int
    fields: tuple[str, ...]
    deleted: bool
    trace_parent: str
    request_id: str


@dataclass(frozen=True)
class Applied:
    """A frame of another region that became visible here.

    `trace_parents` are the traces that its changes were made under; `newest_ms` is the wall clock
    of its last change where it was made.
    """

    group: str
    origin: Origin
    first: int
    last: int
    trace_parents: tuple[str, ...]
    newest_ms: int

    @classmethod
    def of(cls, group: str, frame: Frame) -> Applied:
        """What is said of a frame."""
        return cls(
            group=group,
            origin=frame.origin,
            first=frame.first,
            last=frame.last,
            trace_parents=frame.trace_parents,
            newest_ms=milliseconds(frame.newest),
        )
