"""`isthmus identity`: identities that another authority issued."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mesh.cli.options import MESH, AsJson, MeshPath

if TYPE_CHECKING:
    from mesh.identity.spiffe import Identity
    from mesh.topology import Topology

app = typer.Typer(help="Identities that another authority issued.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Identities that another authority issued."""


@app.command()
def install(
    certificate: Annotated[
        Path, typer.Option("--certificate", help="The leaf, then its issuers below the root: PEM.")
    ],
    key: Annotated[Path, typer.Option("--key", help="Its key: PEM, P-256.")],
    roots: Annotated[Path, typer.Option("--roots", help="The roots to trust: PEM.")],
    mesh: MeshPath = MESH,
    as_json: AsJson = False,
) -> None:
    """Puts an identity where the one whom it names looks for it; who runs takes it up in a second.

    For a mesh whose `workloads` have no `authority`. Everything is judged first; the identity
    before is replaced whole or not at all.
    """
    from datetime import UTC, datetime

    from mesh.cli import output
    from mesh.cli.exits import CommandError, Exit
    from mesh.identity.errors import IdentityFolderError
    from mesh.identity.provided import Provided
    from mesh.topology import load

    topology = load(mesh)
    try:
        provided = Provided(*(path.read_bytes() for path in (certificate, key, roots)))
        who = provided.identity(datetime.now(UTC))
    except OSError as error:
        why = f"cannot read {error.filename}: {error.strerror}"
        raise CommandError(why, Exit.USAGE) from None
    except IdentityFolderError as error:
        why = f"{certificate} is no identity to run with: {error}"
        raise CommandError(why, Exit.USAGE) from None
    into = _place(topology, who)
    provided.install(into)
    if as_json:
        output.print_json({"spiffe_id": who.uri, "folder": str(into)})
    else:
        print(f"{who.uri} is in {into}")


def _place(topology: Topology, who: Identity) -> Path:
    """Where it belongs on this machine. Raises `CommandError` if there is no such place."""
    from mesh.cli.exits import CommandError, Exit
    from mesh.identity.enrolment import AUTHORITY
    from mesh.identity.spiffe import DeviceId, WorkloadId
    from mesh.local.layout import Layout
    from mesh.place import EDGE

    if AUTHORITY in topology.workloads:
        raise CommandError(
            f"{topology.path} has the workload `{AUTHORITY}`, which issues identities itself: take "
            "it out of `workloads` to have them issued elsewhere",
            Exit.CONFLICT,
        )
    if who.trust_domain != topology.trust_domain:
        raise CommandError(
            f"{who.uri} is of another trust domain than {topology.path}, which has "
            f"{topology.trust_domain}",
            Exit.USAGE,
        )
    layout = Layout.of(topology)
    match who:
        case WorkloadId(region=region, name=name):
            known = (*topology.workloads, EDGE)
            if region not in topology.region_names or name not in known:
                raise CommandError(
                    f"{topology.path} has no {region}/{name}: it has the regions "
                    f"{', '.join(topology.region_names)} and the workloads {', '.join(known)}",
                    Exit.NOT_FOUND,
                )
            return layout.place(region, name).identity
        case DeviceId(device_id=device_id):
            return layout.device(device_id) / "identity"
    return layout.operator
