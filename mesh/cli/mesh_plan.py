"""`isthmus mesh plan`: what a contract would change, before it does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mesh.cli.options import MESH, AsJson, MeshPath

if TYPE_CHECKING:
    from mesh.xds.plan import Deployable, Plan

Image = Annotated[
    Path,
    typer.Option(
        "--from",
        help="The contract that is deployed: a descriptor set, such as a former contracts.binpb.",
        metavar="FILE",
    ),
]
Topology = Annotated[
    Path | None,
    typer.Option("--from-mesh", help="The topology that is deployed.", metavar="PATH"),
]


def plan(
    image: Image,
    topology: Topology = None,
    mesh: MeshPath = MESH,
    diff: Annotated[
        bool, typer.Option("--diff", help="Show what changes in each sidecar's resources.")
    ] = False,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit with 1 if anything would change.")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Shows what deploying this contract and topology would change, by method and by sidecar.

    Each configuration that would change has then been accepted by the real Envoy. A contract that
    is refused ends with 2, a configuration that Envoy refuses with 1.
    """
    from mesh.cli import output
    from mesh.cli.exits import Exit
    from mesh.contracts import load as load_contract
    from mesh.topology import load
    from mesh.xds.plan import Deployable, envoy_diff
    from mesh.xds.plan import plan as make

    old = Deployable(_read(image), load(topology or mesh))
    new = Deployable(load_contract(), load(mesh))
    made = make(old, new)
    _validate(new, made)
    diffs = {
        str(instance): list(envoy_diff(old, new, instance)) for instance in made.sidecars if diff
    }
    if as_json:
        output.print_json(_as_json(made) | ({"diff": diffs} if diff else {}))
    else:
        _print(made)
        for lines in diffs.values():
            print("\n".join(lines))
    return Exit.FAILED if exit_code and (made.sidecars or made.changes) else Exit.OK


def _read(image: Path) -> Any:
    from google.protobuf.descriptor_pb2 import FileDescriptorSet

    from mesh.contracts.read import read

    return read(FileDescriptorSet.FromString(read_image(image)))


def read_image(image: Path) -> bytes:
    """The bytes of a descriptor set. Raises `CommandError` if it is none."""
    from google.protobuf.descriptor_pb2 import FileDescriptorSet
    from google.protobuf.message import DecodeError

    from mesh.cli.exits import CommandError, Exit

    try:
        data = image.read_bytes()
        FileDescriptorSet.FromString(data)
    except OSError as error:
        raise CommandError(f"{image} cannot be read: {error.strerror}", Exit.USAGE) from None
    except DecodeError:
        raise CommandError(
            f"{image} is no descriptor set: give what `git show "
            "REVISION:gen/python/isthmus/contracts.binpb` printed, or what buf build wrote",
            Exit.USAGE,
        ) from None
    return data


def _validate(new: Deployable, made: Plan) -> None:
    import tempfile

    from mesh.envoy.render import accepted
    from mesh.local.layout import Layout

    place = Layout.of(new.topology).place
    with tempfile.TemporaryDirectory(prefix="isthmus-") as scratch:
        for each in made.sidecars:
            if new.topology.has(each.region, each.workload):
                where = place(each.region, each.workload)
                accepted(new.contract, new.topology, where, Path(scratch) / str(each))


def _print(made: Plan) -> None:
    subject = ""
    for planned in made.changes:
        if planned.change.subject != subject:
            subject = planned.change.subject
            print(f"{subject}: {len(planned.sidecars)} of {made.of} sidecars change")
        print(f"  {planned.change.what} ({planned.change.location})")
    if made.by_topology:
        print(f"topology: {len(made.by_topology)} of {made.of} sidecars change")
    for said in made.traffic:
        print(f"  {said}")
    if not made.sidecars:
        print("No sidecar changes.")
        return
    named = ", ".join(map(str, made.sidecars))
    print(f"{len(made.sidecars)} of {made.of} sidecars change, and Envoy accepts each: {named}")


def _as_json(made: Plan) -> dict[str, Any]:
    return {
        "changes": [
            {
                "subject": planned.change.subject,
                "kind": planned.change.kind.name,
                "what": planned.change.what,
                "file": planned.change.location.file,
                "line": planned.change.location.line,
                "sidecars": list(map(str, planned.sidecars)),
            }
            for planned in made.changes
        ],
        "by_topology": list(map(str, made.by_topology)),
        "traffic": list(made.traffic),
        "sidecars": list(map(str, made.sidecars)),
        "of": made.of,
    }
