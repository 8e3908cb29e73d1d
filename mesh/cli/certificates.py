"""Certificates that should have been replaced, in words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from mesh.cli import output
from mesh.identity import expiry
from mesh.identity.expiry import Level, Lifetime

if TYPE_CHECKING:
    from isthmus.mesh.v1.status_pb2 import CertificateStatus

    from mesh.cli.standing import Standing

RUNBOOK = "docs/runbooks/identity.md"
_NAMES = {
    Level.LEAF: "its certificate",
    Level.ISSUING: "its region's issuing certificate",
    Level.ROOT: "the root",
}


def warnings_of(standing: Standing, now: datetime) -> list[str]:
    """What is to be said of one workload's chain."""
    status = standing.status
    if status is None or not status.HasField("certificate"):
        return []
    return [_said(each) for each in expiry.overdue(_lifetimes(status.certificate), now)]


def overdue(standings: Iterable[Standing], now: datetime) -> Iterator[str]:
    """The same of all, in lines; what several workloads say of one issuer is said once."""
    said: dict[str, list[str]] = {}
    for standing in standings:
        for text in warnings_of(standing, now):
            said.setdefault(text, []).append(f"{standing.region}/{standing.workload}")
    for text, whose in said.items():
        yield f"{', '.join(whose)}: {text}: see {RUNBOOK}"


def _lifetimes(status: CertificateStatus) -> list[Lifetime]:
    own = Lifetime(
        Level.LEAF,
        status.not_before.ToDatetime(tzinfo=UTC),
        status.not_after.ToDatetime(tzinfo=UTC),
    )
    known = {level.value: level for level in Level}
    return [
        own,
        *(
            Lifetime(
                known[each.level],
                each.not_before.ToDatetime(tzinfo=UTC),
                each.not_after.ToDatetime(tzinfo=UTC),
            )
            for each in status.issuers
            if each.level in known
        ),
    ]


def _said(found: expiry.Overdue) -> str:
    name = _NAMES[found.level]
    if found.outlives is not None:
        return f"{name} outlives {_NAMES[found.outlives]}, which must not be"
    if found.left.total_seconds() <= 0:
        return f"{name} ended {output.duration(-found.left)} ago"
    return f"{name} ends in {output.duration(found.left)} and should have been replaced"
