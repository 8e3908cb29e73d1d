"""`isthmus up`: runs every region of `mesh.yaml` on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mesh.cli.options import MESH, AsJson, MeshPath

if TYPE_CHECKING:
    from mesh.local.layout import Layout
    from mesh.local.record import Record


def up(
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Return once all is healthy; it keeps running.")
    ] = False,
    mesh: MeshPath = MESH,
    as_json: AsJson = False,
) -> None:
    """Runs all regions, with devices and the WAN between, until Ctrl-C or `isthmus down`.

    Exits with 0 if it is stopped once all was healthy, and with 130 if it is stopped before.
    """
    from mesh.cli import output
    from mesh.cli.exits import CommandError, Exit
    from mesh.cli.failover import note_missing_failover
    from mesh.cli.progress import view
    from mesh.contracts import load as load_contract
    from mesh.local.layout import Layout
    from mesh.topology import load

    layout = Layout.of(load(mesh))
    contract = load_contract()

    def tell(record: Record) -> None:
        if as_json:
            output.print_json(record.to_json())
        else:
            _welcome(layout, record, detach)
        note_missing_failover(contract, layout.topology)

    with view(quiet=as_json) as watch:
        if detach:
            from mesh.cli.session import run
            from mesh.local.detach import start_detached

            tell(run(start_detached(layout)))
        else:
            import asyncio

            from mesh.local.supervisor import Supervisor

            async def supervise() -> bool:
                return await Supervisor(contract, layout, watch).run(tell)

            if not asyncio.run(supervise()):
                raise CommandError("stopped before everything was up", Exit.INTERRUPTED)
            if not as_json:
                print("Everything is stopped.")


def _welcome(layout: Layout, record: Record, detached: bool) -> None:
    topology = layout.topology
    took = ((record.healthy_ms or record.started_ms) - record.started_ms) / 1000
    regions = ", ".join(topology.region_names)
    edges = "  ".join(f"{name} {topology.edge(name)}" for name in topology.region_names)
    last = topology.region_names[-1]
    print(
        f"""
Up in {took:.1f} s: {regions} with {len(record.processes)} processes.

  edges      {edges}
  origin     http://{topology.origin}/<channel>/live.m3u8
  operator   {layout.operator}/tls.crt, tls.key, trust.crt
  logs       {layout.state}/<region>/<workload>/logs/

Try:
  isthmus status
  isthmus channels create news --title "Evening news" --start
  isthmus overview --watch
  isthmus local region kill {last}   then: isthmus local region start {last}
  isthmus local wan cut {last}       then: isthmus local wan heal

{"`isthmus down`" if detached else "Ctrl-C"} stops everything.""",
        flush=True,
    )
