"""Short fault runs with real processes: nothing is wrong, and what is seeded is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import namespaces
from tests.faults.nemesis import KINDS
from tests.faults.runs import Plan, run

pytestmark = pytest.mark.e2e

SEED = 7


async def test_links_of_network_namespaces(tmp_path: Path) -> None:
    try:
        namespaces.check(netem=False)
    except namespaces.NotPossible as error:
        pytest.skip(str(error))
    links = namespaces.Namespaces
    plan = Plan("short", SEED, 2.5, ("cut", "reset"), 3, tmp_path / "run", network=links)
    verdict = await run(plan)
    assert verdict.holds, verdict.violations
    assert verdict.history.faults


@pytest.mark.parametrize(("kinds", "seconds"), [((), 2.0), (KINDS, 8.0)])
async def test_nothing_acknowledged_is_missing(
    tmp_path: Path, kinds: tuple[str, ...], seconds: float
) -> None:
    verdict = await run(Plan("short", SEED, seconds, kinds, 3, tmp_path / "run"))
    assert verdict.holds, verdict.violations
    assert verdict.counts["acknowledged"] > 50
    assert verdict.counts["reads"] > 20
    assert bool(verdict.history.faults) == bool(kinds)


@pytest.mark.parametrize(
    ("bug", "kind", "checks"),
    [
        ("acknowledged_before_the_fsync", "kill", {"lives and deletes"}),
        ("sessions_do_not_wait", "cut", {"sessions"}),
        ("repeats_ask_nobody", "slow", {"one effect per request", "COUNTER BOUNDED_COUNTER"}),
        ("increments_of_one_origin_are_added_up_twice", "reset", {"COUNTER BOUNDED_COUNTER"}),
    ],
)
async def test_a_seeded_bug_is_found(tmp_path: Path, bug: str, kind: str, checks: set[str]) -> None:
    # Whether a fault meets a write is up to the machine: mostly the first run finds it.
    for seed in range(SEED, SEED + 4):
        verdict = await run(Plan("seeded", seed, 4.0, (kind,), 3, tmp_path / "run", bug))
        if any(verdict.violations[check] for check in checks):
            return
    pytest.fail(f"nothing was found by {checks}: {verdict.violations}")
