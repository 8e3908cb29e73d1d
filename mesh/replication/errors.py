"""What can go wrong in replication.

    ReplicationError
    ├── WriteError                 the caller's write was not taken; nothing of it is visible
    │   ├── AlreadyExists          `create` of an entity that lives
    │   ├── NotFound               a change of an entity that does not live
    │   ├── NotReplicated          no such entity, field or rule in the group's contract
    │   ├── RequestIdReused        a request id came back with another request
    │   ├── OperationUnknown       a request may have been done before: that cannot be told here
    │   ├── RightsShort            a bounded counter cannot give as much here now
    │   ├── NotHome                another region is the entity's home, and writes it
    │   ├── ResidentDurability     HOME_REGION values cannot be durable in other regions
    │   ├── BelowBound             a bounded counter would begin below its bound
    │   ├── WriteTooLarge          one write does not fit a frame
    │   ├── OriginChanged          the region took a new incarnation under the write: try again
    │   ├── WriteNotStored         the store could not take it
    │   └── GroupClosed            the group is closing or closed
    ├── StoreError                 the store itself
    │   ├── StoreFull              no space left; reads go on
    │   ├── StoreCorrupt           what it holds is damaged
    │   ├── StoreTooNew            a newer version of Isthmus wrote it
    │   ├── StoreMismatch          it belongs to another group or region
    │   ├── StoreLocked            another process has it open
    │   └── StoreBroken            it failed in a way that leaves its last commit in doubt
    ├── DurabilityPending          a write is durable here, and not yet in as many regions as asked
    ├── NotYetHere                 the region lacks what the caller has seen elsewhere
    ├── ClockAhead                 the clock here is ahead of the peers': it takes no writes
    ├── NotAMember                 the region leaves its group or left it: it takes no writes
    ├── NotTheHome                 members are decided in another region
    ├── DecisionRefused            how a region stands does not allow that decision about it
    ├── TokenDamaged               a session token cannot be read
    ├── EtagDamaged                an entity's etag cannot be read
    ├── SchemaError                the contract's entities cannot be replicated
    └── WatcherTooSlow             a watcher did not keep up: watch again

The core's own errors (`mesh.replication.core.errors`) say why a frame or a link is refused; they
are kinds of `ReplicationError` as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mesh.replication.core.clocks import Origin
from mesh.replication.core.entities import EntityKey
from mesh.replication.core.errors import (
    ClockAhead,
    DecisionRefused,
    EtagDamaged,
    NotAMember,
    NotTheHome,
    ReplicationError,
    TokenDamaged,
)

__all__ = [
    "AlreadyExists",
    "BelowBound",
    "ClockAhead",
    "DecisionRefused",
    "DurabilityPending",
    "EtagDamaged",
    "GroupClosed",
    "NotAMember",
    "NotFound",
    "NotHome",
    "NotReplicated",
    "NotTheHome",
    "NotYetHere",
    "OperationUnknown",
    "OriginChanged",
    "ReplicationError",
    "RequestIdReused",
    "ResidentDurability",
    "RightsShort",
    "SchemaError",
    "StoreBroken",
    "StoreCorrupt",
    "StoreError",
    "StoreFull",
    "StoreLocked",
    "StoreMismatch",
    "StoreTooNew",
    "TokenDamaged",
    "WatcherTooSlow",
    "WriteError",
    "WriteNotStored",
    "WriteTooLarge",
]


class WriteError(ReplicationError):
    """The caller's write was not taken; nothing of it is visible anywhere."""


class AlreadyExists(WriteError):
    """`create` of an entity that lives."""


class NotFound(WriteError):
    """A change of an entity that does not live."""


class NotReplicated(WriteError):
    """The group's contract has no such entity or field, or its rule does not take this change."""


class RequestIdReused(WriteError):
    """A request id came back with another request: repeat a request unchanged, or take a new id."""


class NotHome(WriteError):
    """Another region is the home of an entity, and that alone writes it: ask there.

    `home` is empty if the entity has none: it came about under a contract without homes.
    """

    def __init__(self, entity: EntityKey, home: str, region: str) -> None:
        what = f"{entity[0]} {entity[1]!r}"
        super().__init__(
            f"{what} is written in its home alone, which is {home}, and this is {region}: "
            f"send the request to {home}, or move the home here first"
            if home
            else f"{what} has no home yet: move its home here first"
        )
        self.entity = entity
        self.home = home


class ResidentDurability(WriteError):
    """A write of HOME_REGION values was to be durable in other regions, where they never go."""


class BelowBound(WriteError):
    """A bounded counter would begin below its bound."""


class RightsShort(WriteError):
    """A bounded counter's rights here are fewer than `asked`; other regions may hand over more.

    `here` is what may be taken here now, `elsewhere` what each other region may take, as far as is
    known here. The group asks those that it hears for what is missing: a later attempt may work.
    """

    def __init__(
        self,
        entity: EntityKey,
        field: str,
        asked: int,
        here: int,
        region: str,
        rights: Mapping[str, int],
    ) -> None:
        elsewhere = {name: held for name, held in rights.items() if name != region and held > 0}
        listed = ", ".join(f"{held} in {name}" for name, held in elsewhere.items()) or "none"
        self.entity = entity
        self.field = field
        self.asked = asked
        self.here = here
        self.elsewhere = elsewhere
        super().__init__(
            f"{field} of {entity[0]} {entity[1]!r}: {region} may take {here} now, "
            f"and {asked} were asked for; elsewhere there are {listed}"
        )


class OperationUnknown(WriteError):
    """Whether a request was done before, or with which result, cannot be told here.

    `regions` are those that know.
    """

    def __init__(self, message: str, regions: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.regions = tuple(regions)


class WriteTooLarge(WriteError):
    """One write does not fit a frame: split it."""


class OriginChanged(WriteError):
    """The region took a new incarnation while the write was in flight; try again."""


class WriteNotStored(WriteError):
    """The store could not take the write; `__cause__` says why."""


class GroupClosed(WriteError):
    """The group is closing or closed."""


class DurabilityPending(ReplicationError):
    """A write took effect: it is durable in `holders`, of `needed` regions that were asked for.

    It goes on to the others by itself; a repeat under the same request id waits for them again.
    """

    def __init__(self, holders: Sequence[str], needed: int) -> None:
        super().__init__(
            f"the write is durable in {', '.join(holders)}, and {needed} regions were asked for: "
            "it goes to the others as soon as they can be reached; a repeat under the same request "
            "id waits for them"
        )
        self.holders = tuple(holders)
        self.needed = needed


class NotYetHere(ReplicationError):
    """The region lacks what the caller has seen: `behind` says how many changes of each origin."""

    def __init__(self, group: str, region: str, behind: Mapping[Origin, int]) -> None:
        listed = ", ".join(f"{number} of {origin}" for origin, number in sorted(behind.items()))
        super().__init__(
            f"{region} does not have all that this session saw of {group} yet; changes that it "
            f"lacks: {listed}. Try again, or ask another region"
        )
        self.group = group
        self.behind = dict(behind)


class StoreError(ReplicationError):
    """The store cannot do what was asked."""


class StoreFull(StoreError):
    """No space is left. Writes fail and reads go on; writes work again once there is space."""


class StoreCorrupt(StoreError):
    """What the store holds is damaged: move it away, and the region fetches all from its peers."""


class StoreTooNew(StoreError):
    """A newer version of Isthmus wrote the store: run that version."""


class StoreMismatch(StoreError):
    """The store belongs to another group or region: look at the folder that was named."""


class StoreLocked(StoreError):
    """Another process has the store open: a group has one writer in each region."""


class StoreBroken(StoreError):
    """The store failed in a way that leaves its last commit in doubt: restart the process."""


class SchemaError(ReplicationError):
    """The contract's entities cannot be replicated; the message names field and remedy."""


class WatcherTooSlow(ReplicationError):
    """A watcher did not keep up with the changes: watch again, from a fresh snapshot."""
