"""The benchmark of replication still runs: each part of it, a moment long."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.bench.rows import OUT

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize(
    ("only", "metric"),
    [
        ("whole, uniform", "whole, uniform"),
        ("contention, Zipf", "two of ten fields, contention, Zipf"),
        ("uniform, through", "two of ten fields, contention, uniform, through sidecars"),
        ("lag", "lag through sidecars at 1000 changes/s, p99"),
        ("local", "local, packed 256 a message, p99"),
        ("memory", "memory of eu before a stall"),
        ("cost", "cost in 3 regions together"),
        ("recovery", "recovery after kill -9, journal of 0 changes"),
        ("catch-up", "catch-up after an outage, from the link's first word"),
    ],
)
def test_a_part_measures(only: str, metric: str) -> None:
    """Without the peers: they are fetched when the benchmark itself is run."""
    result = OUT / "replication-quick.json"
    result.unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench", "replication", "--quick", "--only", only],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(result.read_text())
    assert all(row["value"] > 0 for row in rows)
    assert metric in {row["metric"] for row in rows}
