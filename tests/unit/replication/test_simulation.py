"""A fixed sample of simulated worlds, and the simulation's own promises."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

from mesh.replication.core import receiving
from mesh.replication.core.errors import ReplicationError
from tests.simulation.bugs import BUGS, FOCUS
from tests.simulation.model import Violation
from tests.simulation.plans import plan
from tests.simulation.shrink import failure, shrink
from tests.simulation.steps import Failure, StepError, play

SCENARIOS = sorted((Path(__file__).parents[2] / "scenarios").glob("*.txt"))
SAMPLE = 60
ENOUGH_SEEDS = 400
"""Each known bug shows within so many."""

SHOWN: dict[str, int | str] = {
    "a_bounded_counter_is_a_counter": 2,
    "a_change_hides_the_damage_that_it_comes_upon": "damage-hidden-by-a-change",
    "a_change_that_cannot_be_read_is_skipped": 36,
    "a_concurrent_removal_brings_an_entry_back": 2,
    "a_delete_is_stable_though_a_former_life_has_not_seen_it": "forgotten-before-a-former-life",
    "a_downgrade_drops_the_states_of_unknown_rules": 46,
    "a_failed_commit_is_stored_all_the_same": 15,
    "a_former_home_is_not_fenced": 5,
    "a_frame_that_comes_again_is_applied_again": "forgotten",
    "a_home_waits_for_its_former_lives_whatever_it_decided": "decided-after-two-backups",
    "a_lag_is_counted_from_when_it_was_heard": "a-relay-lies",
    "a_readmitted_region_counts_by_what_it_said_before": 17,
    "a_region_has_left_before_the_others_have_what_it_wrote": 14,
    "a_region_that_leaves_goes_on_writing": 9,
    "a_relay_is_trusted": "a-relay-lies",
    "a_removal_also_removes_what_it_had_not_seen": "a-relay-lies",
    "a_repair_forgets_what_only_the_journal_has": "damage-in-memory",
    "a_repeat_asks_nobody": "repeat-elsewhere",
    "a_restored_backup_goes_on_under_its_old_incarnation": "restored-backup",
    "a_restored_backup_spends_its_rights_again": "rights-of-a-restored-backup",
    "a_rollback_forgets_what_stays": 36,
    "a_sender_skips_what_it_has_not_read": "evicted-past-the-horizon",
    "a_snapshot_holds_what_came_after_it": "snapshot-while-writing",
    "a_snapshot_omits_the_heads_of_chains": "evicted-past-the-horizon",
    "a_snapshot_takes_the_place_of_what_is_here": 4,
    "a_tombstone_is_dropped_before_all_have_seen_the_delete": 41,
    "a_write_is_acknowledged_before_it_is_stored": "disk-full",
    "an_etag_is_not_looked_at": 42,
    "an_etag_of_an_earlier_life_counts": "etag-of-an-earlier-life",
    "an_evicted_region_is_linked": "evicted-past-the-horizon",
    "an_fsync_is_skipped": 0,
    "an_upgrade_does_not_take_up_what_was_parked": "older-contract",
    "cells_of_unknown_rules_are_dropped": 36,
    "checksums_of_stored_states_are_not_checked": "damage-on-disk",
    "clocks_of_others_are_not_noted": "clocks-apart",
    "dependencies_are_dropped": "forgotten",
    "dots_are_numbered_anew": 42,
    "fences_are_not_stored": 3,
    "first_lets_a_later_writer_win": 2,
    "frames_of_a_failed_commit_are_forgotten": "disk-full",
    "increments_of_one_origin_are_added_up_twice": "damage-hidden-by-a-change",
    "keep_both_drops_a_concurrent_value": 2,
    "min_is_taken_for_max": 34,
    "older_contents_lie_over_newer_ones": "altered-on-the-way",
    "only_the_first_change_of_a_write_is_sent": "a-relay-lies",
    "ranges_are_compared_whatever_touched_them": "a-relay-lies",
    "recovery_forgets_the_journal_above_the_watermark": "older-contract",
    "rights_that_are_given_are_kept": "rights-given-away",
    "scrubbing_trusts_what_it_remembers": "damage-in-memory",
    "the_chain_is_not_checked": "altered-on-the-way",
    "the_digest_is_not_told_of_every_change": "a-relay-lies",
    "the_journal_is_cut_above_what_a_member_has": "journal-kept",
    "the_pieces_of_a_snapshot_are_not_checked": "snapshot-while-writing",
    "the_wall_clock_alone_orders_writes": "a-relay-lies",
    "the_watermark_is_stored_before_the_states": "half-a-flush",
    "tokens_name_too_little": 2,
    "tombstones_are_forgotten": "delete-wins",
    "what_a_snapshot_has_forgotten_lives_on": 191,
    "what_an_evicted_region_wrote_alone_is_dropped": 205,
    "what_came_is_acknowledged_as_durable": "a-relay-lies",
    "what_is_written_to_what_was_forgotten_counts": "forgotten",
    "what_nobody_signed_is_taken": "a-relay-lies",
    "what_stays_in_a_region_is_sent": "stays-after-a-rollback",
    "what_stays_ends_by_what_is_damaged": "stays-while-damaged",
    "what_stays_is_not_in_the_commit": 0,
    "what_stays_outlives_a_delete": "stays-after-a-rollback",
    "what_stays_outlives_a_repair": "stays-until-a-repair",
    "a_token_is_not_looked_at": 3,
    "conflicts_with_an_etag_are_not_noted_in_maps": "noted-with-an-etag",
    "plain_changes_are_never_in_conflict": "delete-wins",
    "what_a_delete_ends_is_not_noted": "delete-wins",
    "what_a_writer_had_seen_is_noted": "clocks-apart",
    "a_relays_word_counts_for_others": "evicted-past-the-horizon",
    "what_is_applied_counts_as_durable": 22,
    "a_word_that_was_under_way_counts_for_a_readmission": "rejoined-while-a-word-is-under-way",
    "two_days_begin_two_tables_of_members": "decided-on-two-days",
    "a_snapshot_passes_deletes_that_are_in_the_journal_alone": (
        "deleted-in-the-journal-before-a-snapshot"
    ),
    "who_left_is_not_looked_at_any_more": "left-and-wrote-all-the-same",
    "what_is_from_the_future_is_applied_at_once": "from-the-future",
    "what_a_region_has_lost_is_wanted_from_it_alone": "a-former-life-relayed",
    "what_is_damaged_is_given_in_snapshots": "damage-is-not-given-on",
    "what_a_snapshot_makes_of_damage_is_believed": "snapshot-over-damage",
    "what_peers_had_before_a_snapshot_is_their_last_word": "damage-before-a-snapshot",
    "what_was_given_is_waited_for_without_end": "snapshot-asked-for-twice",
    "a_change_that_has_no_effect_is_forgotten": "damage-that-hides-a-delete",
    "a_snapshot_with_an_earlier_life_ends_nothing": "forgotten-between-two-backups",
    "a_frame_names_what_the_first_of_its_writes_saw": "stays-before-a-later-write",
    "what_was_deleted_and_forgotten_since_is_missed_here": "forgotten-while-compared",
    "what_others_depend_on_is_not_told_to_its_origin": "seen-by-one-who-is-lost",
}
"""Seeds and scenarios that showed bugs: tried first, to save time. They may be any."""

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


@pytest.mark.parametrize("seed", [1, 3])
def test_worlds_of_forty_regions_keep_all_promises(seed: int) -> None:
    lines = plan(seed, most_regions=40, least_regions=40)
    found = failure(lines)
    assert found is None, f"{found}\n" + "\n".join(lines)


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
    def script(where: int | str) -> list[str]:
        if isinstance(where, int):
            return plan(where, most_regions=4, focus=FOCUS.get(bug, ()))
        return (SCENARIOS[0].parent / f"{where}.txt").read_text().splitlines()

    anywhere = (*(path.stem for path in SCENARIOS), *range(ENOUGH_SEEDS))
    with BUGS[bug]():
        for lines in map(script, (SHOWN.get(bug, 0), *anywhere)):
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
    with patch.object(receiving, "WINDOW_CHANGES", 4):
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
