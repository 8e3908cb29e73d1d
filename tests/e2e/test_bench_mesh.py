"""The benchmark of the control plane still runs, a moment long."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.bench.rows import OUT

pytestmark = pytest.mark.e2e


def measured(only: str, *options: str) -> dict[str, float]:
    result = OUT / f"mesh-quick-{only}.json"
    result.unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench", "mesh", "--quick", "--only", only, *options],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return {row["metric"]: row["value"] for row in json.loads(result.read_text())}


def test_changes_are_measured() -> None:
    rows = measured("50x200", "--alone")
    assert rows["change to last ACK, 50 streams, 200 resources, p99"] > 0
    assert 0 < rows["sent to each stream for a change, 50 streams, 200 resources"] < 100_000


def test_calls_are_measured() -> None:
    rows = measured("calls")
    ways = ("compiled sidecars", "minimal Envoys", "gRPC's own mTLS")
    assert all(rows[f"unary call over mTLS, {way}, p50"] > 0 for way in ways)


def test_what_there_is_not_is_told() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench", "mesh", "--alone", "--only", "3x3"],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 2
    assert "streams x resources" in done.stdout
