"""`isthmus demo`: the whole story holds, and leaves nothing behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mesh.cli.exits import Exit

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[2]


def processes_of(folder: Path) -> list[str]:
    """Command lines that name the folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if str(folder) in command:
            found.append(command)
    return found


@pytest.mark.timeout(400)
def test_every_step_holds(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mesh.cli", "demo", "--json", "--mesh", str(ROOT / "mesh.yaml")],
        env={"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=390,
        check=False,
    )
    assert done.returncode == Exit.OK, done.stderr
    story = json.loads(done.stdout)
    assert story["held"]
    assert [step["name"] for step in story["steps"]] == [
        "Regions start",
        "Devices enrol and connect",
        "A channel goes on air",
        "Other regions see it",
        "Its encoder is killed",
        "A region is cut off",
        "The cut heals",
        "A whole region is killed",
        "The region returns",
        "A stranger is denied",
    ]
    assert all(step["held"] for step in story["steps"])
    assert not list(tmp_path.glob("isthmus-demo-*"))
    assert not processes_of(tmp_path)
