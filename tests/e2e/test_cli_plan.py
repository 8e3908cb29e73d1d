"""`isthmus mesh plan` and `why`, without a mesh; the real Envoy accepts what is planned."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from isthmus.options.v1 import options_pb2

from mesh.cli.exits import Exit
from mesh.contracts.read import descriptors

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]


def isthmus(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mesh.cli", "mesh", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)


@pytest.fixture
def deployed(tmp_path: Path) -> Path:
    """A contract in which overview may list channels."""
    image = FileDescriptorSet.FromString(descriptors().SerializeToString())
    for file in image.file:
        for service in file.service:
            for method in service.method:
                if method.name == "ListChannels":
                    terms = method.options.Extensions[options_pb2.method]
                    terms.callers.workloads.append("overview")
    path = tmp_path / "deployed.binpb"
    path.write_bytes(image.SerializeToString())
    return path


def test_a_plan_tells_who_loses_what_and_where(deployed: Path) -> None:
    made = isthmus("plan", "--from", str(deployed), "--diff", "--exit-code")
    assert made.returncode == Exit.FAILED, made.stderr
    assert "ChannelService/ListChannels: 6 of 18 sidecars change" in made.stdout
    assert "caller `overview` loses access (isthmus/channels/v1/channels.proto:" in made.stdout
    assert "Envoy accepts each" in made.stdout
    assert "--- a/eu/overview/RouteConfiguration/egress" in made.stdout
    told = isthmus("plan", "--from", str(deployed), "--json")
    assert told.returncode == Exit.OK
    (change,) = json.loads(told.stdout)["changes"]
    assert change["kind"] == "LOSES" and "eu/channels" in change["sidecars"]


def test_a_plan_without_changes_and_one_from_nothing(tmp_path: Path) -> None:
    same = ROOT / "gen" / "python" / "isthmus" / "contracts.binpb"
    made = isthmus("plan", "--from", str(same), "--exit-code")
    assert (made.returncode, made.stdout) == (Exit.OK, "No sidecar changes.\n")
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"\xff\xff")
    for path, said in ((garbage, "is no descriptor set"), (tmp_path / "none", "cannot be read")):
        refused = isthmus("plan", "--from", str(path))
        assert refused.returncode == Exit.USAGE and said in refused.stderr


def test_why_names_the_line() -> None:
    denied = isthmus("why", "devices", "CreateChannel")
    assert denied.returncode == Exit.REFUSED
    assert "its `callers` are role operator (isthmus/channels/v1/channels.proto:" in denied.stdout
    assert isthmus("why", "operator/ann", "ChannelService/CreateChannel").returncode == Exit.OK
    unclear = isthmus("why", "nobody", "CreateChannel")
    assert unclear.returncode == Exit.NOT_FOUND and "name a workload" in unclear.stderr
