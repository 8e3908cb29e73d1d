"""The README's session, typed as it stands: every command does what it says."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mesh.cli.exits import Exit
from tests.support.mesh import RunningMesh

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

ROOT = Path(__file__).resolve().parents[2]
# What starts and stops the mesh is tested with a mesh of its own: test_up_lifecycle.
NOT_HERE = {"isthmus down"}


def session() -> list[str]:
    """The `isthmus` commands of the README's "Try it", without their comments."""
    text = (ROOT / "README.md").read_text()
    block = re.search(r"## Try it\n+```\n(.*?)```", text, re.DOTALL)
    assert block is not None
    lines = [line.partition(" #")[0].strip() for line in block[1].splitlines()]
    return [line for line in lines if line.startswith("isthmus ") and line not in NOT_HERE]


def test_every_command_of_the_session_works(running_mesh: RunningMesh, tmp_path: Path) -> None:
    commands = session()
    assert len(commands) > 8
    for command in commands:
        _, *words = shlex.split(command)
        deadline = time.monotonic() + 30
        while True:
            done = subprocess.run(
                [sys.executable, "-m", "mesh.cli", *words],
                cwd=tmp_path,
                env={
                    "PATH": "/usr/bin:/bin",
                    "ISTHMUS_MESH": str(running_mesh.layout.topology.path),
                },
                capture_output=True,
                text=True,
                timeout=100,
                check=False,
            )
            # What another test's faults still show is none of the README's.
            settled = done.returncode == Exit.OK or words not in (["status"], ["verify"])
            if settled or time.monotonic() > deadline:
                break
        assert done.returncode == Exit.OK, f"{command}: {done.stdout} {done.stderr}"


def test_the_files_that_it_names_exist() -> None:
    text = (ROOT / "README.md").read_text()
    names = re.findall(r"`((?:docs|mesh|proto|gen|services|tests)/[\w./-]*|[A-Z]+\.md)`", text)
    assert len(names) > 8
    for name in names:
        assert (ROOT / name).exists(), name
