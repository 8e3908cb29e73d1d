"""Which options and values are enforced today, and where: one row for each, none left out.

An option that nothing enforces is refused, never accepted and ignored. Rows are keyed by the name
in options.proto: ``Message.field`` or ``Enum.VALUE``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum


class Support(Enum):
    """What becomes of an option or value."""

    ENFORCED = "enforced"
    NOT_YET = "not supported yet"
    REFUSED = "refused"


@dataclass(frozen=True)
class Row:
    """How one option or value stands; `where` says what enforces or refuses it."""

    support: Support
    where: str = ""


def _enforced(where: str) -> Row:
    return Row(Support.ENFORCED, where)


def _refused(where: str) -> Row:
    return Row(Support.REFUSED, where)


_IDENTITY = "certificates, sidecars' routes and the runtime"
_ACCESS = "RBAC in the callee's sidecar and at the edge; once more in the runtime"
_ROUTE = "the calling sidecar's and the edge's routes"
_RATE = "a token bucket in the callee's sidecar, for each instance"
_CLUSTER = "the calling sidecar's and the edge's clusters"
_GROUP = "replication: the group's journal and store"
_MERGE = "replication: merging of cells"
_RESIDENT = "replication: kept in a section of the store that nothing is sent from"
_SESSION = "the runtime: a call waits until its region has what the caller's token has seen"
_HOME = "replication: other regions refuse to write; a move fences the old home"
_DURABLE = "replication: the answer waits for the fsync in as many regions"

ROWS: Mapping[str, Row] = {
    "ServiceContract.workload": _enforced(_IDENTITY),
    "ServiceContract.group": _enforced(_GROUP),
    "ServiceContract.owner": _enforced("shown by `isthmus status`; refused if missing"),
    "ServiceContract.runbook": _enforced("shown by `isthmus status`; refused if missing"),
    "MethodContract.callers": _enforced(_ACCESS),
    "MethodContract.timeout": _enforced(f"{_ROUTE}: the longest that a call may take"),
    "MethodContract.retry": _enforced(f"{_ROUTE}: retry policy"),
    "MethodContract.rate_limit": _enforced(_RATE),
    "MethodContract.locality": _enforced(_CLUSTER),
    "MethodContract.consistency": _enforced(_SESSION),
    "MethodContract.durability": _enforced(_DURABLE),
    "MethodContract.stream_max_age": _enforced(f"{_ROUTE}: the longest that a stream may live"),
    "Callers.workloads": _enforced(_ACCESS),
    "Callers.roles": _enforced(_ACCESS),
    "Callers.peers": _enforced(_ACCESS),
    "Callers.any_workload": _enforced(_ACCESS),
    "Role.ROLE_UNSPECIFIED": _refused("rule `ROLE_UNSPECIFIED`"),
    "Role.ROLE_OPERATOR": _enforced(_ACCESS),
    "Role.ROLE_DEVICE": _enforced(_ACCESS),
    "Role.ROLE_UNENROLLED": _enforced("the enrolment listener; refused on any other service"),
    "Retry.attempts": _enforced(f"{_ROUTE}: retry policy"),
    "Retry.per_try": _enforced(f"{_ROUTE}: retry policy"),
    "RateLimit.per_second": _enforced(_RATE),
    "RateLimit.burst": _enforced(_RATE),
    "Locality.LOCALITY_UNSPECIFIED": _enforced("the same as LOCALITY_LOCAL"),
    "Locality.LOCALITY_NEAREST": _enforced(f"{_CLUSTER}: regions in the order of failover"),
    "Locality.LOCALITY_LOCAL": _enforced(f"{_CLUSTER}: the own region alone"),
    "Locality.LOCALITY_HOME": _enforced(
        "the runtime: another region answers NOT_HOME before the method runs; clients repeat the "
        f"call with the home named in a header, by which {_ROUTE} choose"
    ),
    "Locality.LOCALITY_PINNED": _enforced(f"{_CLUSTER}: one for each region, without ejection"),
    "Consistency.CONSISTENCY_UNSPECIFIED": _enforced("the same as CONSISTENCY_EVENTUAL"),
    "Consistency.CONSISTENCY_EVENTUAL": _enforced("replication: reads answer from the own region"),
    "Consistency.CONSISTENCY_SESSION": _enforced(_SESSION),
    "Durability.DURABILITY_UNSPECIFIED": _enforced("the same as DURABILITY_REGION"),
    "Durability.DURABILITY_REGION": _enforced("replication: acknowledged after fsync"),
    "Durability.DURABILITY_ONE_PEER": _enforced(_DURABLE),
    "Durability.DURABILITY_MAJORITY": _enforced(_DURABLE),
    "EntityContract.group": _enforced(_GROUP),
    "EntityContract.key": _enforced(_GROUP),
    "EntityContract.home": _enforced(_HOME),
    "EntityContract.home_field": _enforced(_HOME),
    "EntityContract.history": _enforced("replication: `Group.history`"),
    "Home.HOME_UNSPECIFIED": _enforced("the same as HOME_ANY_REGION"),
    "Home.HOME_ANY_REGION": _enforced(_MERGE),
    "Home.HOME_ONE_REGION": _enforced(_HOME),
    "FieldContract.merge": _enforced(_MERGE),
    "FieldContract.scope": _enforced(_RESIDENT),
    "FieldContract.order_by": _enforced(_MERGE),
    "FieldContract.at_least": _enforced("replication: a write that would pass it is refused"),
    "Merge.MERGE_UNSPECIFIED": _refused("rule `MERGE_RULE_MISSING`"),
    "Merge.MERGE_LATEST": _enforced(_MERGE),
    "Merge.MERGE_FIRST": _enforced(_MERGE),
    "Merge.MERGE_MAX": _enforced(_MERGE),
    "Merge.MERGE_MIN": _enforced(_MERGE),
    "Merge.MERGE_COUNTER": _enforced(_MERGE),
    "Merge.MERGE_BOUNDED_COUNTER": _enforced(_MERGE),
    "Merge.MERGE_SET": _enforced(_MERGE),
    "Merge.MERGE_MAP": _enforced(_MERGE),
    "Merge.MERGE_MESSAGE": _enforced(_MERGE),
    "Merge.MERGE_KEEP_BOTH": _enforced(_MERGE),
    "Scope.SCOPE_UNSPECIFIED": _enforced("the same as SCOPE_GLOBAL"),
    "Scope.SCOPE_GLOBAL": _enforced("replication: sent to every region"),
    "Scope.SCOPE_HOME_REGION": _enforced(_RESIDENT),
}

STANDARD: Mapping[str, str] = {
    "idempotency_level": "retries",
    "debug_redact": "logs",
    "buf.validate": "every request message, before the service sees it",
    "google.api.http": "JSON over plain HTTP, at the edges",
}
"""The options of others that are enforced, and where."""

INSTEAD: Mapping[str, str] = {}
"""For each option or value that is not supported yet: what to write today."""
