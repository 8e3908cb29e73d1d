"""Meshes for end-to-end tests: real Envoys, real processes, ports and state of their own.

`mesh_up` is a running mesh of three regions, the one of `mesh.yaml`, shared by all tests of a
pytest worker. Tests leave it as they found it: what they kill they start again. `mesh_folder` is
an empty stage for a small mesh that a test starts, and breaks, by itself.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from mesh.cli.story.stage import Stage
from mesh.local.control import ControlClient
from mesh.local.derive import derive
from mesh.local.detach import start_detached, stop
from mesh.local.layout import Layout
from mesh.local.ports import claim_blocks
from mesh.topology import load
from tests.e2e.sidecars import SmallMesh
from tests.support.collector import Collector
from tests.support.mesh import Run, RunningMesh
from tests.support.ports import free_blocks

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder for sockets, which need a short path."""
    run = Path(tempfile.mkdtemp(prefix="ist-"))
    yield run
    shutil.rmtree(run)


@pytest.fixture
async def mesh(tmp_path: Path, short: Path) -> AsyncIterator[SmallMesh]:
    """Two regions with nothing in them yet; see `SmallMesh`."""
    small = SmallMesh(tmp_path, short, free_blocks(2))
    try:
        yield small
    finally:
        await small.close()


@pytest.fixture(scope="session")
def running_mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    """Starts the three regions of `mesh.yaml`, all of them and their devices healthy."""
    original = load(ROOT / "mesh.yaml")
    claim = claim_blocks(len(original.regions) + 1)
    collector = Collector()
    folder = tmp_path_factory.mktemp("mesh")
    layout = Layout.of(derive(original, folder, claim.bases, otlp=collector.address))
    record = asyncio.run(start_detached(layout, tied=True))
    yield RunningMesh(layout, record, collector)
    asyncio.run(stop(layout))
    collector.close()
    claim.release()


@pytest.fixture
def isthmus(running_mesh: RunningMesh, tmp_path: Path) -> Run:
    """Runs a command as an operator would, from anywhere."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        mesh = str(running_mesh.layout.topology.path)
        return subprocess.run(
            [sys.executable, "-m", "mesh.cli", *arguments],
            cwd=tmp_path,
            env={"PATH": "/usr/bin:/bin", "ISTHMUS_MESH": mesh},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    return run


@pytest.fixture
async def mesh_up(running_mesh: RunningMesh) -> AsyncIterator[Stage]:
    """The running mesh, with connections of this test's own; its WAN is healed afterwards.

    `topology`, `layout` (paths), `control` (drills), `edges(region)` (calls as the operator).
    """
    layout = running_mesh.layout
    stage = Stage(layout.topology, layout, ControlClient(layout.control), running_mesh.record)
    yield stage
    await stage.control.ask("wan-heal")
    await stage.close()


SMALL = """\
version: 1
trust_domain: isthmus.test
regions:
  - {{name: eu, host: 127.0.0.1, base_port: {base}}}
workloads: [authority]
media: {{root: media, origin: "127.0.0.1:{origin}"}}
"""


@pytest.fixture
def mesh_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder with the `mesh.yaml` of one region and one workload, on free ports; not started."""
    claim = claim_blocks(2)
    (tmp_path / "mesh.yaml").write_text(SMALL.format(base=claim.bases[0], origin=claim.bases[1]))
    yield tmp_path
    asyncio.run(stop(Layout.of(load(tmp_path / "mesh.yaml"))))
    claim.release()
