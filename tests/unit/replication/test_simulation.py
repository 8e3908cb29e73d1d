"""A fixed sample of simulated worlds, and the simulation's own promises."""

from __future__ import annotations

import hashlib
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

from mesh.replication.core import links
from mesh.replication.core.errors import ReplicationError
from tests.simulation import damage_bugs  # noqa: F401 # adds to BUGS
from tests.simulation.bugs import BUGS, FOCUS
from tests.simulation.model import Violation
from tests.simulation.plans import plan
from tests.simulation.shrink import failure, shrink
from tests.simulation.steps import Failure, StepError, play

SCENARIOS = sorted((Path(__file__).parents[2] / "scenarios").glob("*.txt"))
SAMPLE = 60
ENOUGH_SEEDS = 400
"""Each known bug shows within so many."""

SHOWN = {
    "a_bounded_counter_is_a_counter": 2,
    "a_concurrent_removal_brings_an_entry_back": 82,
    "a_failed_commit_is_stored_all_the_same": 125,
    "a_relay_is_trusted": 85,
    "a_snapshot_holds_what_came_after_it": 3058,
    "an_etag_is_not_looked_at": 42,
    "dots_are_numbered_anew": 10,
    "first_lets_a_later_writer_win": 10,
    "keep_both_drops_a_concurrent_value": 18,
    "min_is_taken_for_max": 66,
    "the_pieces_of_a_snapshot_are_not_checked": 103,
    "what_nobody_signed_is_taken": 85,
}
"""Seeds that showed rare bugs: tried first, to save time. They may be any, and may show nothing."""

_FINGERPRINT = """
import sys
from tests.unit.replication.test_simulation import fingerprint
sys.stdout.write(fingerprint(range(5)))
"""


def fingerprint(seeds: range) -> str:
    """Of all that worlds end with: when, in which state, at which vectors."""
    found = hashlib.sha256()
    for seed in seeds:
        world = play(plan(seed, most_regions=4))
        found.update(str(world.timeline.now).encode())
        for region in world.regions.values():
            found.update(region.digest() + repr(sorted(region.journal.vector.items())).encode())
    return found.hexdigest()


@pytest.mark.parametrize("start", range(0, SAMPLE, 20))
def test_worlds_keep_all_promises(start: int) -> None:
    for seed in range(start, start + 20):
        lines = plan(seed, most_regions=6)
        found = failure(lines)
        assert found is None, f"seed {seed}: {found}\n" + "\n".join(shrink(lines))


def test_many_regions_converge() -> None:
    names = " ".join(f"r{n}" for n in range(12))
    play(
        [
            f"regions {names}",
            "create r0 c1 title=a labels=x",
            "wait 50",
            "split r0,r1,r2,r3,r4,r5 r6,r7,r8,r9,r10,r11",
            "increment r1 c1 takeovers=1",
            "increment r7 c1 takeovers=2",
            "ring",
            "kill r3",
            "wait 1000",
            "settle",
            "check c1 takeovers=3",
        ]
    )


def test_a_seed_replays_to_the_byte_in_another_process() -> None:
    root = Path(__file__).parents[3]
    for hash_seed in ("1", "2"):
        result = subprocess.run(
            [sys.executable, "-c", _FINGERPRINT],
            cwd=root,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert result.stdout == fingerprint(range(5))


@pytest.mark.parametrize("bug", BUGS)
def test_known_bugs_are_found(bug: str) -> None:
    scenarios = (path.read_text().splitlines() for path in SCENARIOS)
    seeds = (SHOWN.get(bug, 0), *range(ENOUGH_SEEDS))
    focus = FOCUS.get(bug, ())
    plans = (plan(seed, most_regions=4, focus=focus) for seed in seeds)
    with BUGS[bug]():
        for lines in itertools.chain(scenarios, plans):
            found = failure(lines)
            if found is not None:
                # Any other exception would be the patch's own fault.
                assert isinstance(found.cause, (AssertionError, Violation, ReplicationError))
                return
    raise AssertionError(f"no scenario, and no seed below {ENOUGH_SEEDS}, shows that {bug}")


def test_failures_are_made_short_and_name_their_line() -> None:
    with BUGS["tombstones_are_forgotten"]():
        seed = next(s for s in range(ENOUGH_SEEDS) if failure(plan(s, most_regions=3)))
        short = shrink(plan(seed, most_regions=3))
        found = failure(short)
    assert found is not None and len(short) < 20
    assert str(found).startswith(f"line {found.number}: {short[found.number - 1]}: Violation")
    assert failure(short) is None


@pytest.fixture
def narrow() -> Iterator[None]:
    """Links that take four changes at a time."""
    with patch.object(links, "WINDOW_CHANGES", 4):
        yield


@pytest.mark.usefixtures("narrow")
def test_worlds_keep_all_promises_over_narrow_links() -> None:
    for seed in range(1000, 1020):
        found = failure(plan(seed, most_regions=4))
        assert found is None, f"seed {seed}: {found}"


@pytest.mark.usefixtures("narrow")
def test_a_path_that_flaps_does_not_make_a_link_take_ever_more() -> None:
    flaps = ["partition eu us", "wait 4000", "heal", "wait 6000"] * 12
    writes = ["increment ap c1 takeovers=1", "wait 10"] * 40
    play(
        [
            "regions ap eu us",
            "create ap c1 title=a",
            "wait 1000",
            *flaps,
            "full us",
            "increment us c1 takeovers=1",
            *writes,
            "wait 900",
            "room us",
            "settle",
            "check c1 takeovers=40",
        ]
    )


def test_lines_that_mean_nothing_are_refused() -> None:
    with pytest.raises(StepError, match="there is no 'destroy'"):
        play(["regions eu us", "destroy eu"])


def test_a_failure_names_what_differs() -> None:
    with pytest.raises(Failure, match=r"line 4: check c1 title=b: .* eu has title a"):
        play(["regions eu us", "create eu c1 title=a", "settle", "check c1 title=b"])
