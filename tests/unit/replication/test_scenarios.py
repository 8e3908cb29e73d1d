"""Runs the scripts of tests/scenarios; `tests/simulation/steps.py` says what their lines mean."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.simulation.steps import play

SCENARIOS = sorted((Path(__file__).parents[2] / "scenarios").glob("*.txt"))


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_scenario(path: Path) -> None:
    play(path.read_text().splitlines())


def test_there_are_scenarios() -> None:
    assert len(SCENARIOS) >= 10
