"""`isthmus mesh apply`, `rollback`, `history` and `home`: a configuration, deployed in stages."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mesh.cli.options import MESH, AsJson, MeshPath, Prefer

if TYPE_CHECKING:
    from isthmus.mesh.v1.rollout_pb2 import Deploy

Window = Annotated[
    float, typer.Option(help="Seconds for which each stage is watched.", metavar="SECONDS")
]
Within = Annotated[
    float,
    typer.Option(
        "--ack-within", help="Seconds that a stage may take to have it.", metavar="SECONDS"
    ),
]
More = Annotated[
    float,
    typer.Option(
        "--more-failures",
        help="By how many percent of a sidecar's calls more may fail than before.",
        metavar="PERCENT",
    ),
]
First = Annotated[
    str,
    typer.Option(help="The sidecar to begin with; one that changes.", metavar="REGION/WORKLOAD"),
]
Detached = Annotated[
    bool, typer.Option("--no-wait", help="Return once it has begun; `history` says how it ends.")
]


def apply(
    image: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="The contract to deploy: a descriptor set. This installation's own if not given.",
            metavar="FILE",
        ),
    ] = None,
    topology: Annotated[
        Path | None,
        typer.Option("--from-mesh", help="The topology to deploy.", metavar="PATH"),
    ] = None,
    window: Window = 10.0,
    within: Within = 20.0,
    more: More = 2.0,
    first: First = "",
    no_wait: Detached = False,
    mesh: MeshPath = MESH,
    region: Prefer = "",
    as_json: AsJson = False,
) -> int:
    """Deploys a contract and a topology to the sidecars: to one, to its region, then to the rest.

    It is compiled, and judged by the real Envoy, first. Each stage has to acknowledge it, to stay
    healthy, and to fail no more calls than before; else all go back by themselves, and the command
    says why, with the contract's lines that may be at fault. Ends with 0 once it is confirmed,
    with 1 if it was refused or rolled back, with 6 if somebody else deploys.
    """
    from isthmus.mesh.v1.deploy_pb2 import ApplyRequest
    from isthmus.mesh.v1.deploy_pb2_grpc import DeployServiceStub

    from mesh.cli.calls import Calls
    from mesh.cli.mesh_plan import read_image
    from mesh.contracts.read import image as own_image
    from mesh.control import Source
    from mesh.topology import load

    given = own_image() if image is None else read_image(image)
    source = Source.of(given, load(topology or mesh))
    request = ApplyRequest(rollout_id="mesh", contract=source.image, topology=source.topology_text)
    request.gates.window.FromMilliseconds(int(window * 1000))
    request.gates.acknowledged_within.FromMilliseconds(int(within * 1000))
    request.gates.more_failures = more / 100
    if first:
        request.first.region, request.first.workload = _sidecar(first)
    calls = Calls(mesh, region, DeployServiceStub)
    deploy = calls.write("Apply", request).deploy
    return _follow(mesh, region, deploy, wait=not no_wait, as_json=as_json)


def rollback(
    revision: Annotated[
        str, typer.Argument(metavar="REVISION", help="From `history`; the one before if not given.")
    ] = "",
    no_wait: Detached = False,
    mesh: MeshPath = MESH,
    region: Prefer = "",
    as_json: AsJson = False,
) -> int:
    """Goes back to a revision that was good, in all regions at once.

    Without REVISION it ends the deploy that runs, if one does.
    """
    from isthmus.mesh.v1.deploy_pb2 import RollbackRequest
    from isthmus.mesh.v1.deploy_pb2_grpc import DeployServiceStub
    from isthmus.mesh.v1.rollout_pb2 import DEPLOY_KIND_ROLLBACK

    from mesh.cli.calls import Calls
    from mesh.cli.exits import Exit

    request = RollbackRequest(rollout_id="mesh", revision=revision)
    deploy = Calls(mesh, region, DeployServiceStub).write("Rollback", request).deploy
    code = _follow(mesh, region, deploy, wait=not no_wait, as_json=as_json)
    ended = deploy.record.kind != DEPLOY_KIND_ROLLBACK
    return Exit.OK if ended else code


def history(mesh: MeshPath = MESH, region: Prefer = "", as_json: AsJson = False) -> None:
    """Lists deploys, the last one first: what, who, when, and how it ended."""
    from isthmus.mesh.v1.deploy_pb2 import ListDeploysRequest
    from isthmus.mesh.v1.deploy_pb2_grpc import DeployServiceStub

    from mesh.cli import output
    from mesh.cli.calls import Calls

    calls = Calls(mesh, region, DeployServiceStub)
    found = calls.read("ListDeploys", ListDeploysRequest()).deploys
    if as_json:
        output.print_json({"deploys": list(found)})
        return
    output.print_table(
        ("BEGUN", "KIND", "REVISION", "BEFORE", "STATE", "WHO", "REASON"),
        (
            (
                output.local_time(each.record.begun.ToDatetime()),
                _word("DEPLOY_KIND_", each, "kind"),
                each.record.revision,
                each.record.previous or "-",
                _word("DEPLOY_PHASE_", each, "phase"),
                each.record.actor.partition("://")[2].partition("/")[2],
                each.record.reason or "-",
            )
            for each in found
        ),
        "Nothing was deployed yet.",
    )


def home(
    to: Annotated[
        str,
        typer.Option(help="The region that decides from now on.", metavar="REGION"),
    ],
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Taken, not given: for a region that is lost. What it still decides is fenced.",
        ),
    ] = False,
    mesh: MeshPath = MESH,
    as_json: AsJson = False,
) -> None:
    """Moves the decisions on deploys to another region.

    The one that decides is asked, and gives them away unless a deploy runs. With --force the new
    one is asked, and ends the deploy that runs.
    """
    from isthmus.mesh.v1.deploy_pb2 import MoveHomeRequest, TakeHomeRequest
    from isthmus.mesh.v1.deploy_pb2_grpc import DeployServiceStub

    from mesh.cli import output
    from mesh.cli.calls import Calls
    from mesh.topology import load

    load(mesh).region(to)
    if force:
        calls = Calls(mesh, to, DeployServiceStub, only=True)
        reply = calls.write("TakeHome", TakeHomeRequest(rollout_id="mesh"))
    else:
        request = MoveHomeRequest(rollout_id="mesh", region=to)
        reply = Calls(mesh, "", DeployServiceStub).write("MoveHome", request)
    if as_json:
        output.print_json(reply)
    else:
        print(f"{reply.home} decides on deploys from now on")


def _follow(mesh: Path, region: str, deploy: Deploy, *, wait: bool, as_json: bool) -> int:
    """Prints how a deploy goes until it ends."""
    from isthmus.mesh.v1 import rollout_pb2 as pb

    from mesh.cli import output
    from mesh.cli.exits import Exit
    from mesh.cli.session import run

    def tell(found: Deploy) -> None:
        if not as_json:
            print(_line(found), flush=True)

    tell(deploy)
    if wait:
        deploy = run(_until_ended(mesh, region, deploy, tell))
    if as_json:
        output.print_json(deploy)
    elif wait:
        for line in deploy.record.blame:
            print(f"  {line}")
    failed = deploy.record.phase in (pb.DEPLOY_PHASE_ROLLED_BACK, pb.DEPLOY_PHASE_REFUSED)
    return Exit.FAILED if failed else Exit.OK


async def _until_ended(mesh: Path, region: str, deploy: Deploy, tell: Any) -> Deploy:
    import asyncio

    import grpc
    from isthmus.mesh.v1.deploy_pb2 import GetDeployRequest
    from isthmus.mesh.v1.deploy_pb2_grpc import DeployServiceStub

    from mesh.cli.session import session
    from mesh.runtime.client import NoEdge

    async with session(mesh, region or deploy.home) as opened:
        shown, request = _line(deploy), GetDeployRequest(deploy_id=deploy.deploy_id)
        while not deploy.record.HasField("ended"):
            await asyncio.sleep(0.3)
            try:
                answer = await opened.read(
                    lambda channel: DeployServiceStub(channel).GetDeploy(request, timeout=3)
                )
            except (grpc.aio.AioRpcError, NoEdge):
                continue  # the edge gets its configuration too: it may be gone for a moment
            deploy = answer.deploy
            if _line(deploy) != shown:
                shown = _line(deploy)
                tell(deploy)
    return deploy


def _line(deploy: Deploy) -> str:
    from isthmus.mesh.v1 import rollout_pb2 as pb

    record = deploy.record
    match record.phase:
        case pb.DEPLOY_PHASE_PREPARING:
            return f"{record.revision}: compiling it, and asking Envoy"
        case pb.DEPLOY_PHASE_WAITING:
            return f"{record.stage}: gets it"
        case pb.DEPLOY_PHASE_WATCHING:
            return f"{record.stage}: has it, and is watched"
        case pb.DEPLOY_PHASE_CONFIRMED:
            return f"{record.revision} is confirmed; {record.sidecars} sidecars changed"
        case pb.DEPLOY_PHASE_REFUSED:
            return f"{record.revision} is refused: {record.reason}"
        case _:
            return f"{record.stage}: rolled back to {record.previous}: {record.reason}"


def _word(prefix: str, deploy: Deploy, field: str) -> str:
    from isthmus.mesh.v1 import rollout_pb2 as pb

    kinds = {"kind": pb.DeployKind, "phase": pb.DeployPhase}
    name: str = kinds[field].Name(getattr(deploy.record, field))
    return name.removeprefix(prefix).lower().replace("_", " ")


def _sidecar(text: str) -> tuple[str, str]:
    from mesh.cli.exits import CommandError, Exit

    region, slash, workload = text.partition("/")
    if not (slash and region and workload):
        raise CommandError(f"{text!r}: write REGION/WORKLOAD, such as eu/devices", Exit.USAGE)
    return region, workload
