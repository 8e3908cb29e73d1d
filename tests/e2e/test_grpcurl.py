"""grpcurl, the real one, through an edge, with the line that the README shows."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.mesh import RunningMesh

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

ROOT = Path(__file__).resolve().parents[2]
GRPCURL = shutil.which("grpcurl", path=f"{ROOT / 'build' / 'bin'}{os.pathsep}{os.environ['PATH']}")
needs_grpcurl = pytest.mark.skipif(
    GRPCURL is None,
    reason="no grpcurl: go install github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3",
)


def readme_commands() -> list[str]:
    """The grpcurl commands of the README, continued lines joined."""
    text = (ROOT / "README.md").read_text().replace("\\\n", " ")
    return [re.sub(r"\s+", " ", line) for line in re.findall(r"^grpcurl .*$", text, re.MULTILINE)]


def run(mesh: RunningMesh, command: str) -> str:
    """Runs a README command where this mesh is, against this mesh's edge."""
    edge = f"localhost:{mesh.layout.topology.edge('eu').port}"
    words = command.replace("localhost:21000", edge).split()
    assert GRPCURL is not None
    done = subprocess.run(
        [GRPCURL, *words[1:]],
        cwd=mesh.layout.state.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_grpcurl
def test_the_readmes_lines_list_and_call(running_mesh: RunningMesh) -> None:
    listing, calling = readme_commands()
    assert {
        "grpc.health.v1.Health",
        "isthmus.channels.v1.ChannelService",
        "isthmus.devices.v1.DeviceService",
        "isthmus.overview.v1.OverviewService",
    } <= set(run(running_mesh, listing).split())
    json.loads(run(running_mesh, calling))


@needs_grpcurl
@pytest.mark.parametrize("workload", ["authority", "devices", "channels", "overview"])
def test_every_workload_reflects_and_is_healthy(running_mesh: RunningMesh, workload: str) -> None:
    base = (
        readme_commands()[0]
        .removesuffix(" list")
        .replace("grpcurl ", f"grpcurl -H x-isthmus-workload:{workload} ", 1)
    )
    assert "isthmus.mesh.v1.StatusService" in run(running_mesh, f"{base} list")
    health = json.loads(run(running_mesh, f"{base} grpc.health.v1.Health/Check"))
    assert health == {"status": "SERVING"}
    status = json.loads(run(running_mesh, f"{base} isthmus.mesh.v1.StatusService/GetStatus"))
    assert (status["workload"], status["region"]) == (workload, "eu")
    assert status["owner"] and status["runbook"]


@needs_grpcurl
def test_a_method_is_described_with_its_request(running_mesh: RunningMesh) -> None:
    base = readme_commands()[0].removesuffix(" list")
    text = run(running_mesh, f"{base} describe isthmus.channels.v1.CreateChannelRequest")
    assert "string channel_id = 1" in text
