"""How long the mesh takes to be up, and how much memory it takes with one channel on air."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from mesh.local.ports import claim_blocks
from tests.bench.rows import Row, row

ROOT = Path(__file__).resolve().parents[2]
ISTHMUS = Path(sys.executable).parent / "isthmus"
RUNS = 3


@contextmanager
def running_mesh() -> Iterator[Path]:
    """A mesh of its own, like the project's mesh.yaml on other ports; gives its folder."""
    with tempfile.TemporaryDirectory(prefix="isthmus-bench-") as folder:
        topology = yaml.safe_load((ROOT / "mesh.yaml").read_text())
        claim = claim_blocks(len(topology["regions"]) + 1)
        for region, base in zip(topology["regions"], claim.bases, strict=False):
            region["base_port"] = base
        topology["media"]["origin"] = f"127.0.0.1:{claim.bases[-1]}"
        (Path(folder) / "mesh.yaml").write_text(yaml.safe_dump(topology))
        subprocess.run([ISTHMUS, "up", "--detach"], cwd=folder, check=True, capture_output=True)
        try:
            yield Path(folder)
        finally:
            subprocess.run([ISTHMUS, "down"], cwd=folder, check=True, capture_output=True)
            claim.release()


def measure() -> list[Row]:
    """Seconds from `up` to all healthy, and megabytes of all processes together."""
    seconds, resident, proportional = [], [], []
    for _ in range(RUNS):
        with running_mesh() as folder:
            record = json.loads((folder / ".isthmus" / "up.json").read_text())
            seconds.append((record["healthy_ms"] - record["started_ms"]) / 1000)
            _put_on_air(folder)
            pids = _family(record["pid"])
            resident.append(sum(_memory(pid, "Rss") for pid in pids))
            proportional.append(sum(_memory(pid, "Pss") for pid in pids))
    return [
        row("up to all healthy, three regions", seconds, "s"),
        row("resident memory, sum over processes (shared pages in each)", resident, "MB"),
        row("resident memory, shared pages once", proportional, "MB"),
    ]


def _put_on_air(folder: Path) -> None:
    subprocess.run(
        [ISTHMUS, "channels", "create", "bench", "--pattern", "bars", "--start"],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    playlist = folder / ".isthmus" / "origin" / "bench" / "live.m3u8"
    deadline = time.monotonic() + 30
    while not playlist.exists():
        if time.monotonic() > deadline:
            raise TimeoutError("the channel did not go on air within 30 s")
        time.sleep(0.1)


def _family(root: int) -> set[int]:
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            after_name = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        parents[int(stat.parent.name)] = int(after_name[1])
    family = {root}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    return family


def _memory(pid: int, kind: str) -> float:
    """Megabytes of a process: ``Rss``, or ``Pss`` which divides shared pages by their users."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(f"{kind}:"):
            return int(line.split()[1]) / 1024
    return 0.0
