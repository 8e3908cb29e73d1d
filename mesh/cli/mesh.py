"""`isthmus mesh`: what the contract makes of the mesh."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mesh.cli.mesh_deploy import apply, history, home, rollback
from mesh.cli.mesh_drift import drift
from mesh.cli.mesh_plan import plan
from mesh.cli.mesh_status import status
from mesh.cli.mesh_tap import tap
from mesh.cli.mesh_why import why
from mesh.cli.options import MESH, AsJson, MeshPath

app = typer.Typer(help="The sidecars' configuration.", no_args_is_help=True)
app.command("plan")(plan)
app.command("apply")(apply)
app.command("rollback")(rollback)
app.command("history")(history)
app.command("home")(home)
app.command("status")(status)
app.command("why")(why)
app.command("drift")(drift)
app.command("tap")(tap)


@app.callback()
def group() -> None:
    """The sidecars' configuration."""


@app.command()
def render(
    out: Annotated[Path, typer.Option("--out", help="The folder to write to.", metavar="DIR")],
    mesh: MeshPath = MESH,
    as_json: AsJson = False,
) -> None:
    """Writes the validated configuration of each sidecar: `DIR/<region>/<workload>/`."""
    from mesh.cli import output
    from mesh.cli.failover import note_missing_failover
    from mesh.contracts import load as load_contract
    from mesh.envoy.render import render as render_all
    from mesh.local.layout import Layout
    from mesh.topology import load

    topology = load(mesh)
    contract = load_contract()
    note_missing_failover(contract, topology)
    written = render_all(contract, topology, Layout.of(topology).place, out)
    if as_json:
        output.print_json({"folders": [str(path) for path in written]})
    else:
        print(f"{len(written)} configurations, all accepted by Envoy, are in {out}")


@app.command("service-config")
def service_config(
    caller: Annotated[
        str, typer.Option("--caller", help="Only what this workload may call.", metavar="WORKLOAD")
    ] = "",
    deadlines: Annotated[
        bool,
        typer.Option(
            "--deadlines/--no-deadlines",
            help="Clients in Python and C++ cut them by a second or two: set deadlines at calls.",
        ),
    ] = True,
    mesh: MeshPath = MESH,
) -> None:
    """Prints the gRPC service config: deadlines and retries for clients without a sidecar.

    A client takes it as the channel argument `grpc.service_config`, in any language.
    """
    from mesh.cli import output
    from mesh.cli.exits import CommandError, Exit
    from mesh.contracts import load as load_contract
    from mesh.contracts.service_config import service_config as configure
    from mesh.topology import load

    known = load(mesh).workloads
    if caller and caller not in known:
        raise CommandError(
            f"{caller} is no workload of {mesh}: it has {', '.join(known)}", Exit.NOT_FOUND
        )
    output.print_json(configure(load_contract(), caller or None, deadlines=deadlines))
