"""What a method raised as the status to answer with, so that services need not translate."""

from __future__ import annotations

from mesh.replication import (
    AlreadyExists as Exists,
)
from mesh.replication import (
    BelowBound,
    ClockAhead,
    DecisionRefused,
    DurabilityPending,
    EtagDamaged,
    NotAMember,
    NotHome,
    NotTheHome,
    NotYetHere,
    OperationUnknown,
    OriginChanged,
    ReplicationError,
    RequestIdReused,
    ResidentDurability,
    RightsShort,
    WatcherTooSlow,
)
from mesh.replication import (
    NotFound as Missing,
)
from mesh.runtime.errors import (
    Aborted,
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    RpcError,
    Unavailable,
)


def typed(error: BaseException) -> RpcError | None:
    """The status that an exception stands for; None if nobody foresaw it.

    A group counts as its first typed member: a method that reads its stream in a task group raises
    the refusal of a bad message wrapped in one.
    """
    if isinstance(error, RpcError):
        return error
    if isinstance(error, ReplicationError):
        return from_replication(error)
    if isinstance(error, BaseExceptionGroup):
        return next(filter(None, map(typed, error.exceptions)), None)
    return None


def from_replication(error: ReplicationError) -> RpcError:
    """The status that a replication error becomes where no service said otherwise.

    What is left over is the store's or the group's own trouble: this instance cannot serve the
    call now and changed nothing, so another one may.
    """
    text = str(error)
    match error:
        case Exists():
            return AlreadyExists(text, reason="ALREADY_EXISTS")
        case Missing():
            return NotFound(text, reason="NOT_FOUND")
        # Aborted, as below: another attempt elsewhere would know no more.
        case OperationUnknown():
            regions = ",".join(error.regions)
            return Aborted(
                text, reason="OPERATION_UNKNOWN", metadata={"regions": regions} if regions else {}
            )
        case RequestIdReused():
            return InvalidArgument(text, reason="REQUEST_ID_REUSED")
        case OriginChanged():
            return Aborted(text, reason="ORIGIN_CHANGED")
        # Aborted, for these two: no sidecar repeats it, and none takes the instance for broken.
        case DurabilityPending():
            return Aborted(
                text,
                reason="DURABILITY_PENDING",
                metadata={"durable_in": ",".join(error.holders), "needed": str(error.needed)},
            )
        case NotYetHere():
            behind = {str(origin): str(number) for origin, number in error.behind.items()}
            return Aborted(text, reason="NOT_YET_HERE", metadata={"group": error.group} | behind)
        case NotTheHome():
            return FailedPrecondition(text, reason="NOT_THE_HOME", metadata={"home": error.home})
        case DecisionRefused():
            return FailedPrecondition(text, reason="DECISION_REFUSED")
        case ClockAhead():
            return FailedPrecondition(text, reason="CLOCK_AHEAD")
        case NotAMember():
            return FailedPrecondition(text, reason="NOT_A_MEMBER")
        case NotHome():
            return FailedPrecondition(text, reason="NOT_HOME", metadata={"home": error.home})
        case ResidentDurability():
            return FailedPrecondition(text, reason="RESIDENT_DURABILITY")
        case EtagDamaged():
            return InvalidArgument(text, reason="ETAG_DAMAGED")
        case BelowBound():
            return InvalidArgument(text, reason="BELOW_BOUND")
        case RightsShort():
            elsewhere = {region: str(held) for region, held in error.elsewhere.items()}
            # Aborted as well: the rest was asked for, and a later attempt may have it.
            return Aborted(
                text,
                reason="RIGHTS_SHORT",
                metadata={"asked": str(error.asked), "here": str(error.here)} | elsewhere,
            )
        case WatcherTooSlow():
            return ResourceExhausted(text, reason="WATCHER_TOO_SLOW")
        case _:
            return Unavailable(text, reason=_reason(error))


def _reason(error: ReplicationError) -> str:
    name = type(error.__cause__ or error).__name__
    return "".join(f"_{c}" if c.isupper() and at else c for at, c in enumerate(name)).upper()
