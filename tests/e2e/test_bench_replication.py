"""The benchmark of replication still runs: every way once, a moment each."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.bench.rows import OUT

pytestmark = pytest.mark.e2e


def test_a_little_of_everything_is_measured() -> None:
    result = OUT / "replication-quick.json"
    result.unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench", "replication", "--quick"],
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {row["metric"]: row for row in json.loads(result.read_text())}
    for name in (
        "whole, uniform",
        "two of ten fields, contention, Zipf",
        "two of ten fields, contention, uniform, through sidecars",
    ):
        assert rows[name]["unit"] == "changes/s"
        assert rows[name]["value"] > 0
