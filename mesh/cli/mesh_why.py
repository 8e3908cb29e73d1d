"""`isthmus mesh why`: who may call what, and which line says so."""

from __future__ import annotations

from typing import Annotated

import typer

from mesh.cli.options import MESH, AsJson, MeshPath

Caller = Annotated[
    str,
    typer.Argument(metavar="CALLER", help="A workload, a role such as `operator`, or a SPIFFE ID."),
]
MethodName = Annotated[
    str,
    typer.Argument(
        metavar="METHOD", help="`package.Service/Method`, or as much of its end as is unique."
    ),
]


def why(caller: Caller, method: MethodName, mesh: MeshPath = MESH, as_json: AsJson = False) -> int:
    """Says whether a caller may call a method, by which rule, and where it stands.

    Exits with 5 if it may not.
    """
    from mesh.cli import output
    from mesh.cli.exits import Exit
    from mesh.contracts import load as load_contract
    from mesh.topology import load
    from mesh.xds.why import caller_of, method_of
    from mesh.xds.why import why as explain

    topology, contract = load(mesh), load_contract()
    found = explain(contract, caller_of(caller, topology), method_of(method, contract))
    if as_json:
        output.print_json(vars(found))
    else:
        print(f"{found.caller} {'may' if found.allowed else 'may not'} call {found.method}")
        print(f"  {found.because} ({found.location})")
        for hop in found.through:
            print(f"  enforced by {hop}")
    return Exit.OK if found.allowed else Exit.REFUSED
