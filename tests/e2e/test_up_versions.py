"""Another version of a workload beside the one that is there, from `isthmus up` to a deploy."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
import yaml
from isthmus.mesh.v1.sidecars_pb2 import ReportRequest
from isthmus.mesh.v1.sidecars_pb2_grpc import SidecarServiceStub
from isthmus.overview.v1.overview_pb2 import GetOverviewRequest
from isthmus.overview.v1.overview_pb2_grpc import OverviewServiceStub

from mesh.cli.exits import Exit
from mesh.cli.story.stage import Stage, stage
from mesh.place import VERSION_HEADER
from mesh.topology import load
from mesh.traffic import Traffic, Version
from tests.e2e.control import eventually
from tests.e2e.test_deploys import FAST, Deployer

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

GET = '"/isthmus.overview.v1.OverviewService/GetOverview"'
NEXT = "overview@next"


async def calls(mesh: Stage, count: int) -> None:
    """As an operator; none may fail."""
    for _ in range(count):
        await mesh.edges("eu").call(
            lambda channel: OverviewServiceStub(channel).GetOverview(
                GetOverviewRequest(), timeout=10
            ),
            repeatable=False,
        )


def answered(mesh: Stage, instance: str) -> int:
    """How many of the calls came to an instance's sidecar."""
    log = mesh.layout.place("eu", instance).logs / "access.log"
    return sum(GET in line for line in log.read_text().splitlines() if '"inbound"' in line)


async def test_a_version_starts_with_the_mesh_and_a_deploy_gives_it_calls(tmp_path: Path) -> None:
    mesh_yaml = load(Path(__file__).parents[2] / "mesh.yaml")
    region = mesh_yaml.regions[0]
    program = (sys.executable, "-m", "services.overview.main")
    version = Version("overview", "next", "eu", region.host, region.base_port + 60, 0, program)
    small = replace(mesh_yaml, regions=(region,), devices=(), traffic=Traffic(versions=(version,)))
    async with stage(small, tmp_path) as mesh:
        deployer = Deployer(mesh, tmp_path)
        told = (await deployer.run("status", "--json")).json
        (next_,) = (s for s in told["regions"][0]["sidecars"] if s["name"]["workload"] == NEXT)
        assert next_["acknowledged"] == next_["revision"] != ""

        async def whole_picture() -> bool:
            try:
                await calls(mesh, 1)
            except grpc.aio.AioRpcError:
                return False
            return True

        await eventually(whole_picture, 30)
        before = answered(mesh, "overview")
        await calls(mesh, 20)

        async def all_logged() -> bool:
            return answered(mesh, "overview") >= before + 20

        await eventually(all_logged, 20)
        assert answered(mesh, NEXT) == 0

        document = yaml.safe_load(mesh.topology.path.read_text())
        document["traffic"]["versions"][0]["weight"] = 50
        half = tmp_path / "half.yaml"
        half.write_text(yaml.safe_dump(document))
        said = await deployer.apply(None, "--from-mesh", str(half), *FAST)
        assert said.code == Exit.OK, said.out + said.errors
        (deployed,) = (await deployer.revisions())["eu"]
        assert deployed != next_["acknowledged"]
        drift = await deployer.run("drift", "--json")
        assert drift.code == Exit.OK, drift.out + drift.errors
        assert drift.json["sidecars"] == len(mesh.topology.instances("eu"))

        # It is started again as all others are, and no call is lost.
        calling = asyncio.create_task(calls(mesh, 200))
        await mesh.control.ask(
            "workload-restart", region="eu", workload=NEXT, sidecar=True, within=120
        )
        await calling

        async def shared() -> bool:
            await calls(mesh, 10)
            return answered(mesh, NEXT) > 20

        await eventually(shared, 30)

        # Nobody is a version that was not declared.
        egress = f"unix:{mesh.layout.place('eu', 'overview').egress_socket}"
        options = [("grpc.default_authority", "control")]
        async with grpc.aio.insecure_channel(egress, options=options) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await SidecarServiceStub(channel).Report(
                    ReportRequest(), timeout=10, metadata=((VERSION_HEADER, "other"),)
                )
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert "eu/overview@other is none of `traffic.versions`" in str(refused.value.details())
