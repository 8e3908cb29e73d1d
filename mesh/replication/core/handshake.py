"""What the two ends of a link say to each other before anything else, and when it ends."""

from __future__ import annotations

from collections.abc import Iterable

from isthmus.replication.v1 import frame_pb2, link_pb2

from mesh.replication.core import errors
from mesh.replication.core.frames import FORMAT, FORMATS
from mesh.replication.core.journal import Journal

_FAULTS: dict[int, type[errors.LinkFault]] = {
    fault.reason: fault
    for fault in (
        errors.HistoryTruncated,
        errors.ChainBroken,
        errors.WrongGroup,
        errors.WrongRegion,
        errors.FormatUnknown,
        errors.ClockAhead,
        errors.RestoredBackup,
        errors.Evicted,
        errors.Left,
        errors.SnapshotDamaged,
        errors.SignatureInvalid,
        errors.RegionClaimedTwice,
    )
}


def fault(peer: str, error: link_pb2.LinkError) -> errors.LinkFault:
    """The fault for which a peer ended the link."""
    return _FAULTS.get(error.reason, errors.LinkFault)(f"{peer} says: {error.message}")


def error_message(fault: errors.LinkFault) -> link_pb2.FollowResponse:
    """What tells the peer why its link ends."""
    return link_pb2.FollowResponse(
        error=link_pb2.LinkError(reason=fault.reason, message=str(fault), remedy=fault.remedy)
    )


def hello(journal: Journal, group: str, regions: Iterable[str] = ()) -> link_pb2.FollowHello:
    """What either end says of itself first."""
    return link_pb2.FollowHello(
        group=group,
        origin=frame_pb2.Origin(
            region=journal.origin.region, incarnation=journal.origin.incarnation
        ),
        formats=FORMATS,
        contract_digest=journal.contract_digest,
        vector=journal.told,
        regions=sorted(regions),
        process=journal.process,
    )


def check_hello(message: link_pb2.FollowHello, group: str, peer: str, own_region: str) -> None:
    """Raises the `LinkFault` for which two ends cannot link."""
    if message.group != group:
        raise errors.WrongGroup(f"{peer} speaks of group {message.group!r}, here is {group!r}")
    region = message.origin.region
    if region != peer or region == own_region:
        raise errors.WrongRegion(f"{peer} says that it is {region!r}; here is {own_region!r}")
    if FORMAT not in message.formats:
        raise errors.FormatUnknown(
            f"{peer} reads the frame formats {list(message.formats)}, here {FORMAT} is written"
        )
