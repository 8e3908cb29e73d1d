"""Why a frame or a link is refused. Each knows the reason that goes to the peer."""

from __future__ import annotations

from isthmus.replication.v1 import link_pb2


class ReplicationError(Exception):
    """Anything that replication raises on purpose."""


class JournalDamaged(ReplicationError):
    """A region's own journal or state is not as it was written."""


class LinkFault(ReplicationError):
    """A link cannot go on. `remedy` says what an operator should do."""

    reason: link_pb2.LinkErrorReason.ValueType = link_pb2.LINK_ERROR_REASON_UNSPECIFIED
    remedy = "read the log of both regions"


class TokenDamaged(ReplicationError):
    """A session token cannot be read."""


class EtagDamaged(ReplicationError):
    """An etag cannot be read."""


class HistoryTruncated(LinkFault):
    """A change is missing between what is here and what came next."""

    reason = link_pb2.LINK_ERROR_REASON_HISTORY_TRUNCATED
    remedy = "start the region that lacks the history from another region's copy"


class ChainBroken(LinkFault):
    """A frame does not follow from the one before it, or is damaged."""

    reason = link_pb2.LINK_ERROR_REASON_CHAIN_BROKEN
    remedy = "find the region whose journal differs from the others and rebuild its store"


class WrongGroup(LinkFault):
    """The two ends speak of different groups."""

    reason = link_pb2.LINK_ERROR_REASON_WRONG_GROUP
    remedy = "look at the route between the regions: it leads to another workload"


class WrongRegion(LinkFault):
    """The peer claims a region that it cannot be."""

    reason = link_pb2.LINK_ERROR_REASON_WRONG_REGION
    remedy = "look at the route between the regions, and at the certificates of both ends"


class FormatUnknown(LinkFault):
    """A frame's format, or a merge rule in it, is not known to this version."""

    reason = link_pb2.LINK_ERROR_REASON_FORMAT_UNKNOWN
    remedy = "upgrade the region that runs the older version"


class ClockAhead(LinkFault):
    """A clock is ahead of the others': a write, or a snapshot, would be from the future."""

    reason = link_pb2.LINK_ERROR_REASON_CLOCK_AHEAD
    remedy = "set the clock of the region whose time is wrong"


class RestoredBackup(LinkFault):
    """A peer knows more of this region than the region itself."""

    reason = link_pb2.LINK_ERROR_REASON_RESTORED_BACKUP
    remedy = "none needed: the region takes a new incarnation and fetches what it lost"


class SignatureInvalid(LinkFault):
    """A relayed frame, or a key, does not bear the signature of the region that it names."""

    reason = link_pb2.LINK_ERROR_REASON_SIGNATURE_INVALID
    remedy = (
        "the peer passes on what its origin did not sign: compare its journal with the origin's, "
        "and evict the peer if it differs; the changes come over any other link"
    )


class Evicted(LinkFault):
    """A region was evicted: it may hold changes that nobody else has."""

    reason = link_pb2.LINK_ERROR_REASON_EVICTED
    remedy = "bring the region back with `isthmus members rejoin REGION`: it loses nothing"


class Left(LinkFault):
    """A region left the group."""

    reason = link_pb2.LINK_ERROR_REASON_LEFT
    remedy = "take the region in again with `isthmus members join REGION`"


class RegionClaimedTwice(LinkFault):
    """Two processes that run at the same time claim to be one region."""

    reason = link_pb2.LINK_ERROR_REASON_REGION_CLAIMED_TWICE
    remedy = (
        "stop one of the two: look for a copy of the region's store, or for an old instance beside "
        "its replacement; what either wrote is kept"
    )


class NotAMember(ReplicationError):
    """The region leaves its group, or left it: it takes no writes."""


class NotTheHome(ReplicationError):
    """Members are decided in one region, the group's home, and this is another."""

    def __init__(self, group: str, region: str, home: str) -> None:
        super().__init__(
            f"the members of {group} are decided in {home}, and this is {region}: ask there; if it "
            f"is gone for good, `isthmus members home --to {region} --force` moves that here"
        )
        self.group = group
        self.home = home


class DecisionRefused(ReplicationError):
    """How a region stands does not allow that decision about it."""


class SnapshotDamaged(LinkFault):
    """A snapshot is not as it was sent; nothing of the damaged part is kept."""

    reason = link_pb2.LINK_ERROR_REASON_SNAPSHOT_DAMAGED
    remedy = "none needed once: it is asked for again; if it recurs, look at the sender's memory"
