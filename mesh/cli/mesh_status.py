"""`isthmus mesh status`: what each sidecar runs, and how it stands, in every region."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mesh.cli.options import MESH, AsJson, MeshPath

if TYPE_CHECKING:
    from isthmus.mesh.v1.sidecars_pb2 import FleetStatus, SidecarStatus

SOON = timedelta(minutes=20)
"""Certificates are renewed at half of their hour: one with less left was not."""


def status(mesh: MeshPath = MESH, as_json: AsJson = False) -> int:
    """Shows of each sidecar its revision, its last ACK or NACK, its certificate and upstreams.

    Drills that are not over are shown too: they are wanted, and no fault.

    Ends with 1 if one is not connected, rejects its configuration, has an unhealthy upstream, an
    open circuit or a certificate near its end, or if a region does not answer.
    """
    from mesh.cli import output
    from mesh.cli.exits import Exit
    from mesh.cli.session import run
    from mesh.topology import load

    topology = load(mesh)
    found = run(_ask(mesh, topology.region_names))
    now = datetime.now(UTC)
    wrong = {
        (region, each.name.workload): problems(each, now)
        for region, fleet in found.items()
        if not isinstance(fleet, str)
        for each in fleet.sidecars
    }
    if as_json:
        output.print_json(
            {
                "regions": [
                    {"region": region, "problem": fleet}
                    if isinstance(fleet, str)
                    else output.plain(fleet)
                    for region, fleet in found.items()
                ],
                "problems": [
                    {"sidecar": "/".join(key), "problem": text}
                    for key, texts in wrong.items()
                    for text in texts
                ],
            }
        )
    else:
        _print(found, wrong, now)
    bad = any(wrong.values()) or any(isinstance(fleet, str) for fleet in found.values())
    return Exit.FAILED if bad else Exit.OK


async def _ask(mesh: Path, regions: tuple[str, ...]) -> dict[str, FleetStatus | str]:
    """Each region's own word, by its own edge; or why there is none."""
    import asyncio

    import grpc
    from isthmus.mesh.v1.sidecars_pb2 import GetFleetRequest
    from isthmus.mesh.v1.sidecars_pb2_grpc import SidecarServiceStub

    from mesh.cli.session import session
    from mesh.cli.standing import problem
    from mesh.runtime.client import NoEdge

    async def one(region: str) -> FleetStatus | str:
        try:
            async with session(mesh, region, only=True) as opened:
                answer = await opened.read(
                    lambda channel: SidecarServiceStub(channel).GetFleet(
                        GetFleetRequest(), timeout=4
                    )
                )
        except NoEdge as error:
            return str(error)
        except grpc.aio.AioRpcError as error:
            return problem(error)
        fleet: FleetStatus = answer.fleet
        return fleet

    return dict(zip(regions, await asyncio.gather(*map(one, regions)), strict=True))


def drills(found: Mapping[str, FleetStatus | str]) -> dict[str, list[str]]:
    """The drills that run, in words, and the regions that have them."""
    running: dict[str, list[str]] = {}
    for region, fleet in found.items():
        if not isinstance(fleet, str):
            for text in dict.fromkeys(each.text for each in fleet.drills):
                running.setdefault(text, []).append(region)
    return running


def problems(sidecar: SidecarStatus, now: datetime) -> list[str]:
    """What is wrong with a sidecar, a sentence each."""
    found = []
    if not (sidecar.connected or sidecar.from_files):
        found.append("it is not connected to the control plane")
    if sidecar.HasField("rejection"):
        what = ", ".join(sidecar.rejection.resources)
        found.append(f"it rejects {sidecar.revision} ({what}): {sidecar.rejection.text}")
    if not sidecar.HasField("reported_at"):
        found.append("its agent has said nothing")
    report = sidecar.report
    if report.problem:
        found.append(report.problem)
    if report.HasField("certificate_not_after"):
        left = report.certificate_not_after.ToDatetime(UTC) - now
        if left < SOON:
            found.append(f"its certificate ends in {left.total_seconds() / 60:.0f} min")
    for each in report.upstreams:
        if each.open:
            found.append(f"{each.cluster}: its circuit is open")
        if each.healthy < each.instances:
            ejected = f", {each.ejected} ejected" if each.ejected else ""
            found.append(
                f"{each.cluster}: {each.healthy} of {each.instances} instances healthy{ejected}"
            )
    return found


def _print(
    found: Mapping[str, FleetStatus | str],
    wrong: Mapping[tuple[str, str], list[str]],
    now: datetime,
) -> None:
    from mesh.cli import output

    rows: list[tuple[str, ...]] = []
    for region, fleet in found.items():
        if isinstance(fleet, str):
            rows.append((region, "-", "-", "-", "-", "-"))
            continue
        rows += [_row(region, each, now) for each in fleet.sidecars]
    columns = ("REGION", "SIDECAR", "RUNS", "LAST SAID", "CERTIFICATE", "UPSTREAMS")
    output.print_table(columns, rows, "There is no region.")
    print()
    for region, fleet in found.items():
        if isinstance(fleet, str):
            print(f"{region}: {fleet}")
        elif fleet.trial:
            print(f"{region}: {fleet.trial} is on trial, {fleet.good} is good")
        else:
            print(f"{region}: {fleet.good} is good")
    for text, regions in drills(found).items():
        print(f"{', '.join(regions)}: {text}")
    for (region, workload), texts in wrong.items():
        for text in texts:
            print(f"{region}/{workload}: {text}")


def _row(region: str, each: SidecarStatus, now: datetime) -> tuple[str, ...]:
    from mesh.cli import output

    said = "-"
    if each.HasField("rejection"):
        said = f"NACK {_ago(each.rejection.time, now)}"
    elif each.HasField("acknowledged_at"):
        said = f"ACK {_ago(each.acknowledged_at, now)}"
    left = "-"
    if each.report.HasField("certificate_not_after"):
        left = output.duration(each.report.certificate_not_after.ToDatetime(UTC) - now) + " left"
    healthy = sum(up.healthy for up in each.report.upstreams)
    total = sum(up.instances for up in each.report.upstreams)
    runs = "from files" if each.from_files else each.acknowledged or "-"
    return (region, each.name.workload, runs, said, left, f"{healthy} of {total}")


def _ago(time: Any, now: datetime) -> str:
    from mesh.cli import output

    return f"{output.duration(now - time.ToDatetime(UTC))} ago"
