"""`isthmus local`: faults on purpose, in a mesh that `isthmus up` runs on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mesh.cli.options import MESH, AsJson, MeshPath

app = typer.Typer(
    help="Drills on this machine: kill regions and processes, break the WAN.", no_args_is_help=True
)
region_app = typer.Typer(help="Whole regions.", no_args_is_help=True)
device_app = typer.Typer(help="Devices that `isthmus up` runs.", no_args_is_help=True)
workload_app = typer.Typer(help="Processes of workloads.", no_args_is_help=True)
wan_app = typer.Typer(help="The links between regions.", no_args_is_help=True)
root_app = typer.Typer(help="The root of all certificates.", no_args_is_help=True)
app.add_typer(region_app, name="region")
app.add_typer(root_app, name="root")
app.add_typer(device_app, name="device")
app.add_typer(workload_app, name="workload")
app.add_typer(wan_app, name="wan")

RegionName = Annotated[str, typer.Argument(metavar="REGION")]
DeviceId = Annotated[str, typer.Argument(metavar="DEVICE")]
Where = Annotated[
    list[str],
    typer.Argument(
        metavar="REGION...",
        help="One region: every link from and to it. Two: the link from the first to the second.",
    ),
]


@region_app.command("kill")
def region_kill(region: RegionName, mesh: MeshPath = MESH, as_json: AsJson = False) -> None:
    """kill -9 to every process of a region, devices included; it stays down."""
    _do(mesh, as_json, f"{region} is down", "region-kill", region=region)


@region_app.command("start")
def region_start(region: RegionName, mesh: MeshPath = MESH, as_json: AsJson = False) -> None:
    """Starts a killed region again; returns once it is healthy. A conflict if it runs."""
    _do(mesh, as_json, f"{region} is up", "region-start", region=region)


@workload_app.command("kill")
def workload_kill(
    region: RegionName,
    workload: Annotated[str, typer.Argument(metavar="WORKLOAD")],
    mesh: MeshPath = MESH,
    as_json: AsJson = False,
) -> None:
    """kill -9 to one workload's process; it is started again."""
    said = f"{workload} in {region} is killed and starts again"
    _do(mesh, as_json, said, "workload-kill", region=region, workload=workload)


@workload_app.command("restart")
def workload_restart(
    region: RegionName,
    workload: Annotated[str, typer.Argument(metavar="WORKLOAD")],
    sidecar: Annotated[
        bool, typer.Option("--sidecar", help="Its sidecar too, afterwards.")
    ] = False,
    mesh: MeshPath = MESH,
    as_json: AsJson = False,
) -> None:
    """Starts a workload's process again without a lost call; returns once it is healthy.

    `edge` is the region's edge, a sidecar alone.
    """
    said = f"{workload} in {region} is started again"
    _do(
        mesh,
        as_json,
        said,
        "workload-restart",
        region=region,
        workload=workload,
        sidecar=sidecar,
    )


@workload_app.command("stop")
def workload_stop(
    region: RegionName,
    workload: Annotated[str, typer.Argument(metavar="WORKLOAD")],
    mesh: MeshPath = MESH,
    as_json: AsJson = False,
) -> None:
    """Ends a workload in one region, once calls that may go elsewhere do; it stays down."""
    said = f"{workload} in {region} is stopped"
    _do(mesh, as_json, said, "workload-stop", region=region, workload=workload)


@workload_app.command("start")
def workload_start(
    region: RegionName,
    workload: Annotated[str, typer.Argument(metavar="WORKLOAD")],
    mesh: MeshPath = MESH,
    as_json: AsJson = False,
) -> None:
    """Starts a stopped workload; returns once it is healthy. A conflict if it runs."""
    said = f"{workload} in {region} is up"
    _do(mesh, as_json, said, "workload-start", region=region, workload=workload)


@device_app.command("kill")
def device_kill(
    device_id: DeviceId,
    restart: Annotated[bool, typer.Option("--restart", help="Start it again at once.")] = False,
    mesh: MeshPath = MESH,
    as_json: AsJson = False,
) -> None:
    """kill -9 to a device with its encoders; it stays down."""
    said = f"{device_id} is killed" + (" and starts again" if restart else "")
    _do(mesh, as_json, said, "device-kill", device_id=device_id, restart=restart)


@device_app.command("start")
def device_start(device_id: DeviceId, mesh: MeshPath = MESH, as_json: AsJson = False) -> None:
    """Starts a killed device again. A conflict if it runs."""
    _do(mesh, as_json, f"{device_id} is started", "device-start", device_id=device_id)


@wan_app.command("cut")
def wan_cut(where: Where, mesh: MeshPath = MESH, as_json: AsJson = False) -> None:
    """Resets connections, old and new, until healed."""
    _do(mesh, as_json, "cut", "wan-cut", **_link(where))


@wan_app.command("stall")
def wan_stall(where: Where, mesh: MeshPath = MESH, as_json: AsJson = False) -> None:
    """Holds all bytes back, with connections left open, until healed."""
    _do(mesh, as_json, "stalled", "wan-stall", **_link(where))


@wan_app.command("delay")
def wan_delay(
    where: Where,
    milliseconds: Annotated[float, typer.Option("--ms", help="Milliseconds, each way.", min=0.0)],
    jitter: Annotated[
        float, typer.Option("--jitter", help="Up to so many milliseconds more.", min=0.0)
    ] = 0.0,
    mesh: MeshPath = MESH,
    as_json: AsJson = False,
) -> None:
    """Delays every byte, until healed."""
    seconds = {"seconds": milliseconds / 1000, "jitter": jitter / 1000}
    _do(mesh, as_json, "delayed", "wan-delay", **seconds, **_link(where))


@wan_app.command("heal")
def wan_heal(
    where: Annotated[
        list[str] | None,
        typer.Argument(metavar="[REGION...]", help="As for `cut`; all links if left out."),
    ] = None,
    mesh: MeshPath = MESH,
    as_json: AsJson = False,
) -> None:
    """Ends faults."""
    _do(mesh, as_json, "healed", "wan-heal", **(_link(where) if where else {}))


@wan_app.command("show")
def wan_show(mesh: MeshPath = MESH, as_json: AsJson = False) -> None:
    """Shows each link's faults."""
    from mesh.cli import output

    links = _ask(mesh, "describe")["wan"]
    if as_json:
        return output.print_json(links)
    return output.print_table(
        ("LINK", "CONNECTIONS", "FAULT"),
        ((name, str(link["connections"]), _fault(link)) for name, link in links.items()),
        "A single region has no links.",
    )


@root_app.command("replace")
def root_replace(mesh: MeshPath = MESH, as_json: AsJson = False) -> None:
    """Begins to replace the root while everything runs; `isthmus up` takes the other two steps.

    Each lasts a bit more than an hour, which is a leaf's life: then everybody has renewed.
    """
    from datetime import UTC, datetime

    from mesh.authority import roots
    from mesh.local.layout import Layout
    from mesh.topology import load

    layout = Layout.of(load(mesh))
    roots.begin(layout.state, layout.topology, datetime.now(UTC))
    _print_root(layout.state, as_json)


@root_app.command("show")
def root_show(mesh: MeshPath = MESH, as_json: AsJson = False) -> None:
    """Shows where the replacement of the root stands."""
    from mesh.local.layout import Layout
    from mesh.topology import load

    _print_root(Layout.of(load(mesh)).state, as_json)


def _print_root(state: Path, as_json: bool) -> None:
    from mesh.authority import keep, roots
    from mesh.cli import output
    from mesh.cli.exits import CommandError, Exit

    root = keep.load(keep.root_file(state))
    if root is None:
        raise CommandError(f"there is no root in {state}: `isthmus up` makes one", Exit.NOT_FOUND)
    step, since = roots.step(state)
    after = "" if since is None else f"{since + roots.SETTLED:%FT%TZ}"
    ends = f"{root.certificate.not_valid_after_utc:%FT%TZ}"
    if as_json:
        found = {"sha256": root.root_hash, "not_after": ends, "step": step.value}
        output.print_json(found | {"next_step_after": after})
    else:
        print(f"root {root.root_hash}, until {ends}")
        if step is not roots.Step.NONE:
            print(f"{step.value}; while `isthmus up` runs the next step follows after {after}")


def _fault(link: dict[str, Any]) -> str:
    faults = [name for name in ("cut", "stall") if link[name]]
    if link["delay"] or link["jitter"]:
        faults.append(f"delay {link['delay'] * 1000:g} ms + up to {link['jitter'] * 1000:g} ms")
    return ", ".join(faults) or "none"


def _link(where: list[str]) -> dict[str, str]:
    from mesh.cli.exits import CommandError, Exit

    match where:
        case [region]:
            return {"region": region}
        case [source, target]:
            return {"source": source, "target": target}
        case _:
            raise CommandError("name one region, or two for the link between them", Exit.USAGE)


def _do(mesh: Path, as_json: bool, said: str, command: str, **arguments: Any) -> None:
    from mesh.cli import output

    result = _ask(mesh, command, **arguments)
    if as_json:
        output.print_json(result)
    elif isinstance(result, list):
        print(f"{said}: {', '.join(result)}")
    else:
        print(said)


def _ask(mesh: Path, command: str, **arguments: Any) -> Any:
    from mesh.cli.session import run
    from mesh.local.control import ControlClient
    from mesh.local.layout import Layout
    from mesh.topology import load

    client = ControlClient(Layout.of(load(mesh)).control)
    return run(client.ask(command, within=120.0, **arguments))
