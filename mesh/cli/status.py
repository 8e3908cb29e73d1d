"""`isthmus status`: how every workload stands, and whether the regions agree."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh.cli.options import MESH, AsJson, MeshPath, Prefer

if TYPE_CHECKING:
    from isthmus.mesh.v1.status_pb2 import GetStatusResponse
    from isthmus.replication.v1.link_pb2 import LinkStatus

    from mesh.cli.standing import Agreement, Standing

_REGION_DOWN = "docs/runbooks/platform.md"


def status(mesh: MeshPath = MESH, region: Prefer = "", as_json: AsJson = False) -> int:
    """Shows each workload's health, owner, certificate, lag and digest, by region, and the edges.

    With `--region` only that one. Exits with 1 if anything is unhealthy, or if regions that
    applied the same changes hold different data.
    """
    import asyncio
    from datetime import UTC, datetime

    from mesh.cli import output
    from mesh.cli.certificates import warnings_of
    from mesh.cli.edge_standing import edges
    from mesh.cli.exits import CommandError, Exit
    from mesh.cli.session import NOT_UP, run, session
    from mesh.cli.standing import agreements, ask
    from mesh.local.record import running

    async def look() -> tuple[list[Standing], list[Standing]]:
        async with session(mesh, region) as opened:
            topology = opened.topology
            regions = (topology.region(region).name,) if region else topology.region_names
            standings, at_edges = await asyncio.gather(
                ask(topology, opened.layout.operator, regions),
                edges(topology, opened.layout.operator, regions),
            )
            if not any(each.healthy for each in standings) and not running(opened.layout):
                raise CommandError(NOT_UP, Exit.UNREACHABLE)
            return standings, at_edges

    now = datetime.now(UTC)
    standings, at_edges = run(look())
    found = agreements(standings)
    healthy = all(standing.healthy for standing in (*standings, *at_edges))
    agree = not any(agreement.differing for agreement in found)
    if as_json:
        output.print_json(
            {
                "healthy": healthy,
                "digests_agree": agree,
                "workloads": [
                    {
                        "region": each.region,
                        "workload": each.workload,
                        "healthy": each.healthy,
                        "problem": each.problem,
                        "status": each.status,
                        "certificate_warnings": warnings_of(each, now),
                    }
                    for each in standings
                ],
                "edges": [
                    {
                        "region": each.region,
                        "healthy": each.healthy,
                        "problem": each.problem,
                        "certificate": each.status.certificate if each.status else None,
                        "certificate_warnings": warnings_of(each, now),
                    }
                    for each in at_edges
                ],
                "groups": [vars(each) for each in found],
            }
        )
    else:
        _show(standings, found, at_edges)
    if not any(standing.healthy for standing in standings):
        return Exit.UNREACHABLE
    return Exit.OK if healthy and agree else Exit.FAILED


def _show(standings: list[Standing], found: list[Agreement], at_edges: list[Standing]) -> None:
    from datetime import UTC, datetime

    from mesh.cli import output
    from mesh.cli.certificates import overdue
    from mesh.cli.memberships import remarks

    output.print_table(
        ("REGION", "WORKLOAD", "HEALTHY", "CERTIFICATE", "LAG", "DIGEST"),
        (_row(standing) for standing in (*standings, *at_edges)),
        "The mesh has no workload.",
    )
    print()
    owners = _owners(standings)
    output.print_table(("WORKLOAD", "OWNER", "RUNBOOK"), owners, "The mesh has no workload.")
    print()
    ask = {workload: f"ask {owner}, see {runbook}" for workload, owner, runbook in owners}
    for standing in standings:
        if standing.status is None:
            whom = ask[standing.workload] if standing.edge else f"see {_REGION_DOWN}"
            print(f"{standing.region}/{standing.workload}: {standing.problem}: {whom}")
        else:
            for line in [*_snapshot(standing.status), *_waiting(standing.status)]:
                print(f"{standing.region}/{standing.workload}: {line}")
    for standing in at_edges:
        # Where it does not answer, that was said of each workload behind it.
        if standing.status is None and standing.edge:
            print(f"{standing.region}/{standing.workload}: {standing.problem}: see {_REGION_DOWN}")
    for standing in standings:
        for line in _parked(standing):
            print(line)
    for line in overdue((*standings, *at_edges), datetime.now(UTC)):
        print(line)
    for agreement in found:
        print(_sentence(agreement))
    for line in remarks(s.status.group.members for s in standings if s.status is not None):
        print(line)


def _row(standing: Standing) -> tuple[str, ...]:
    status = standing.status
    if status is None:
        return (standing.region, standing.workload, "no", "-", "-", "-")
    return (
        standing.region,
        standing.workload,
        "yes",
        _certificate(status),
        ", ".join(_lags(status)) or "-",
        status.group.digest.hex()[:12] or "-",
    )


def _owners(standings: list[Standing]) -> list[tuple[str, str, str]]:
    """By workload, as the contract says: a workload that is down cannot say it itself."""
    from mesh.contracts import load

    told = {
        service.workload: (service.owner, service.runbook) for service in load().services.values()
    }
    workloads = dict.fromkeys(standing.workload for standing in standings)
    return [(workload, *told.get(workload, ("-", "-"))) for workload in workloads]


def _certificate(status: GetStatusResponse) -> str:
    from datetime import UTC, datetime

    from mesh.cli import output

    left = status.certificate.not_after.ToDatetime(tzinfo=UTC) - datetime.now(UTC)
    return f"{output.duration(left)} left" if left.total_seconds() > 0 else "expired"


def _lags(status: GetStatusResponse) -> list[str]:
    from mesh.cli import output

    def behind(link: LinkStatus) -> str:
        least = ">= " if link.lag_at_least else ""
        return f"{least}{output.duration(link.lag.ToTimedelta())} ({link.lag_changes})"

    return [
        f"{link.peer} "
        + (
            f"cut off {output.duration(link.silence.ToTimedelta())}"
            + (f", {behind(link)}" if link.lag_changes else "")
            if not link.connected
            else behind(link)
            if link.lag_changes
            else "0"
        )
        for link in status.group.links
    ]


def _parked(standing: Standing) -> list[str]:
    """What a workload keeps and cannot read."""
    from mesh.cli import output

    status = standing.status
    if status is None:
        return []
    return [
        f"{standing.region}/{standing.workload}: parked: {each.changes} changes of {each.type} "
        + (f"{each.field} (merge rule {each.rule})" if each.rule else f"(kind {each.kind})")
        + (f" since {output.local_time(each.since.ToDatetime())}" if each.HasField("since") else "")
        + ": a newer version will read them, see docs/runbooks/replication.md"
        for each in status.group.parked
    ]


def _snapshot(status: GetStatusResponse) -> list[str]:
    """How far a snapshot has come in."""
    from mesh.cli import output

    group, snapshot = status.group, status.group.snapshot
    if not group.HasField("snapshot"):
        return []
    part = f"{100 * snapshot.entities_taken // snapshot.entities} %" if snapshot.entities else "all"
    return [
        f"{group.group}: takes a snapshot from {snapshot.peer}: {snapshot.entities_taken} of "
        f"{snapshot.entities} entities ({part}), {output.size(snapshot.bytes_taken)}"
    ]


def _waiting(status: GetStatusResponse) -> list[str]:
    """What came and waits, and for what."""
    lines = []
    for each in status.group.waiting:
        regions = dict.fromkeys(position.origin.region for position in each.missing.positions)
        why = f"changes of {', '.join(regions)}" if regions else "the disk"
        if each.relay:
            why = f"its signature (relayed by {each.relay})"
            why += f": {each.refusal}" if each.refusal else ""
        lines.append(
            f"{status.group.group}: {each.frames} frames of {each.origin.region} "
            f"({each.bytes} bytes) wait for {why}"
        )
    return lines


def _sentence(agreement: Agreement) -> str:
    regions = ", ".join(agreement.regions)
    if agreement.differing:
        return (
            f"{agreement.group}: DIFFERENT DATA in {', '.join(agreement.differing)} after the same "
            "changes: see docs/runbooks/replication.md"
        )
    if agreement.parked:
        return f"{agreement.group}: not comparable: parked changes in {', '.join(agreement.parked)}"
    if agreement.converged and len(agreement.regions) > 1:
        return f"{agreement.group}: {regions} hold identical data (digest {agreement.digest[:12]})"
    if agreement.converged:
        return f"{agreement.group}: only {regions} answered"
    return f"{agreement.group}: changes are on their way between {regions}"
