"""How a region's sidecars stand, from its fleet and its agents' reports; and what a deploy sees.

Pure, but for the clock that it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from isthmus.mesh.v1 import sidecars_pb2 as pb

from mesh.control.reports import Reported
from mesh.control.rollout import Count, Seen
from mesh.place import PLATFORM
from mesh.traffic import Drill
from mesh.xds.fleet import Fleet, Instance, SidecarView
from mesh.xds.stream import Rejection


def fleet_status(
    region: str,
    installed: str,
    fleet: Fleet,
    reports: Mapping[Instance, Reported],
    now_ms: int,
    refused: tuple[str, str] = ("", ""),
    drills: Callable[[str], Iterable[Drill]] = lambda revision: (),
) -> pb.FleetStatus:
    """All sidecars of the region, connected or not; `refused` is a deploy, and why.

    `drills` are those of a revision.
    """
    trial = fleet.wanted.name if fleet.wanted.name != fleet.good.name else ""
    status = pb.FleetStatus(
        region=region,
        installed=installed,
        good=fleet.good.name,
        trial=trial,
        refused_deploy=refused[0],
        refused_because=refused[1],
    )
    status.time.FromMilliseconds(now_ms)
    for revision in dict.fromkeys((fleet.good.name, fleet.wanted.name)):
        for drill in drills(revision):
            here = not drill.regions or region in drill.regions
            if here and drill.until.timestamp() * 1000 > now_ms:
                drilled = status.drills.add(name=drill.name, text=str(drill), revision=revision)
                drilled.until.FromDatetime(drill.until)
    views: dict[Instance, SidecarView] = {view.instance: view for view in fleet.views()}
    for instance in sorted({*fleet.good.snapshots, *views, *reports}):
        if instance.region != region:
            continue
        added = status.sidecars.add(from_files=instance.workload in PLATFORM)
        added.name.region, added.name.workload = instance.region, instance.workload
        if instance in views:
            _say_view(added, views[instance])
        if instance in reports:
            found = reports[instance]
            added.report.CopyFrom(found.report)
            added.reported_at.FromMilliseconds(found.at_ms)
    return status


def _say_view(added: pb.SidecarStatus, view: SidecarView) -> None:
    added.connected = True
    added.revision = view.revision
    added.acknowledged = view.acknowledged
    if view.acknowledged_ms:
        added.acknowledged_at.FromMilliseconds(view.acknowledged_ms)
    if view.rejection is not None:
        _say_rejection(added.rejection, view.rejection)


def _say_rejection(into: pb.SidecarRejection, rejection: Rejection) -> None:
    into.time.FromMilliseconds(rejection.time_ms)
    into.text = rejection.text
    into.resources.extend(rejection.names)


def seen(status: pb.FleetStatus, older: float = 0.0) -> dict[Instance, Seen]:
    """A region's sidecars as a deploy looks at them.

    `older` is how many seconds ago the region said so. Sidecars that start from files have no
    revisions, and are none of a deploy's.
    """
    now_ms = status.time.ToMilliseconds()
    return {
        Instance(each.name.region, each.name.workload): Seen(
            connected=each.connected,
            revision=each.revision,
            acknowledged=each.acknowledged,
            rejection=_rejected(each),
            heard=older + max(0, now_ms - each.reported_at.ToMilliseconds()) / 1000
            if each.HasField("reported_at")
            else older,
            counting_since=each.report.counting_since,
            counts={c.path: Count(c.calls, c.failures) for c in each.report.calls},
            healthy={up.cluster: up.healthy for up in each.report.upstreams},
        )
        for each in status.sidecars
        if not each.from_files
    }


def _rejected(each: pb.SidecarStatus) -> str:
    if not each.HasField("rejection"):
        return ""
    # Envoy shows the whole resource behind its reason.
    reason = " ".join(each.rejection.text.split())[:300]
    return f"{', '.join(each.rejection.resources)}: {reason}"
