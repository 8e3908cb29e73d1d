"""The operator's commands against a running mesh of three regions."""

from __future__ import annotations

import json
import subprocess
import time
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from mesh.cli.exits import Exit
from mesh.contracts import load
from tests.support.mesh import Run, RunningMesh

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]


@pytest.fixture
def channel_id() -> str:
    return f"ch-{uuid.uuid4().hex[:8]}"


def answer(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == Exit.OK, done.stderr
    return json.loads(done.stdout)


def test_a_channels_life(isthmus: Run, channel_id: str) -> None:
    created = answer(
        isthmus(
            *("channels", "create", channel_id, "--title", "Test", "--home", "us"),
            *("--pattern", "clock", "--label", "a", "--kbps", "200", "--json"),
        )
    )
    assert (created["home_region"], created["intent"]) == ("us", "INTENT_STOPPED")
    assert created["source"] == {"test_pattern": "TEST_PATTERN_CLOCK"}

    again = isthmus("channels", "create", channel_id)
    assert again.returncode == Exit.CONFLICT
    assert again.stderr.startswith("isthmus: ") and channel_id in again.stderr

    update = ("channels", "update", channel_id, "--title", "New", "--frame-rate", "12")
    updated = answer(
        isthmus(*update, "--add-label", "b", "--remove-label", "a", "--pinned", "--json")
    )
    assert (updated["title"], updated["labels"], updated["pinned"]) == ("New", ["b"], True)
    assert updated["profile"]["frame_rate"] == 12
    assert updated["profile"]["video_kbps"] == 200

    assert answer(isthmus("channels", "start", channel_id, "--json"))["intent"] == "INTENT_ON_AIR"
    refused = isthmus("channels", "delete", channel_id)
    assert refused.returncode == Exit.CONFLICT
    assert isthmus("channels", "stop", channel_id).returncode == Exit.OK
    shown = isthmus("channels", "get", channel_id)
    assert "stopped, pinned" in shown.stdout and f"/{channel_id}/live.m3u8" in shown.stdout
    assert channel_id in isthmus("channels", "list").stdout

    history = answer(isthmus("channels", "history", channel_id, "--json"))["changes"]
    by_operator = [change for change in history if change["actor"].endswith("/operator/local")]
    assert len(by_operator) >= 4
    assert by_operator[0]["fields"] == ["intent"]
    assert "title" in by_operator[-1]["fields"]
    assert {change["region"] for change in by_operator} == {"eu"}
    assert "operator/local" in isthmus("channels", "history", channel_id).stdout

    assert isthmus("channels", "delete", channel_id).stdout == f"{channel_id} is deleted\n"
    missing = isthmus("channels", "get", channel_id)
    assert missing.returncode == Exit.NOT_FOUND


@pytest.mark.proves("buf.validate")
def test_wrong_values_are_named_by_field(isthmus: Run) -> None:
    refused = isthmus("channels", "create", "Not An Id", "--url", "ftp://example.com/x")
    assert refused.returncode == Exit.USAGE
    assert "channel_id" in refused.stderr and "source.url" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_devices_are_steered(isthmus: Run, running_mesh: RunningMesh) -> None:
    specs = running_mesh.layout.topology.devices
    listed = answer(isthmus("devices", "list", "--json"))["devices"]
    assert {device["device_id"] for device in listed} >= {spec.device_id for spec in specs}
    device = specs[-1].device_id
    drained = answer(isthmus("devices", "drain", device, "--json"))
    assert drained["duty"] == "DUTY_MAINTENANCE"
    assert "maintenance" in isthmus("devices", "list").stdout
    assert answer(isthmus("devices", "resume", device, "--json"))["duty"] == "DUTY_ACTIVE"
    labelled = answer(isthmus("devices", "label", device, "--add", "rack-7", "--json"))
    assert labelled["labels"] == ["rack-7"]
    assert answer(isthmus("devices", "label", device, "--remove", "rack-7", "--json")) is not None
    assert "model" in isthmus("devices", "get", device).stdout
    connected = isthmus("devices", "delete", device)
    assert connected.returncode == Exit.CONFLICT
    assert isthmus("devices", "get", "nobody").returncode == Exit.NOT_FOUND


def test_a_join_token_is_of_the_region_asked(isthmus: Run, running_mesh: RunningMesh) -> None:
    token = answer(isthmus("devices", "token", "encoder-new", "--region", "ap", "--json"))
    assert token["join_token"].startswith("isthmus1.ap.device.encoder-new.")
    assert token["enrolment_address"] == str(running_mesh.layout.topology.enrolment("ap"))


@pytest.mark.proves("ServiceContract.owner", "ServiceContract.runbook")
def test_status_and_overview(isthmus: Run) -> None:
    status = isthmus("status")
    assert status.returncode == Exit.OK, status.stdout
    assert "docs/runbooks/" in status.stdout.replace("\n", "") or "runbook" in status.stdout.lower()
    seen = answer(isthmus("status", "--json", "--region", "us"))
    assert {each["region"] for each in seen["workloads"]} == {"us"}
    (edge,) = seen["edges"]
    assert (edge["region"], edge["healthy"], edge["certificate_warnings"]) == ("us", True, [])
    ends = datetime.fromisoformat(edge["certificate"]["not_after"])
    assert timedelta(minutes=20) < ends - datetime.now(UTC) < timedelta(hours=1, minutes=1)
    said = {
        (each["workload"], each["status"]["owner"], each["status"]["runbook"])
        for each in seen["workloads"]
    }
    services = load().services.values()
    assert said <= {(each.workload, each.owner, each.runbook) for each in services}
    assert {workload for workload, *_ in said} == set(load().workloads())
    picture = answer(isthmus("overview", "--region", "ap", "--json"))
    assert picture["region"] == "ap"
    assert {region["region"] for region in picture["regions"]} == {"eu", "us", "ap"}
    assert "As ap sees it:" in isthmus("overview", "-r", "ap").stdout


def test_each_pair_of_regions_is_proven_equal(isthmus: Run) -> None:
    deadline = time.monotonic() + 60
    while (done := isthmus("verify")).returncode != Exit.OK and time.monotonic() < deadline:
        pass  # each look takes a while
    assert done.returncode == Exit.OK, done.stdout
    assert "ap = eu" in done.stdout and "eu = us" in done.stdout
    found = answer(isthmus("verify", "--region", "us", "--workload", "channels", "--json"))
    assert found["proven"] and found["sound"]
    assert [pair["regions"] for pair in found["pairs"]] == [["ap", "us"], ["eu", "us"]]
    assert all(pair["group"] == "channels" for pair in found["pairs"])
    old = isthmus("verify", "--within", "0")
    assert old.returncode == Exit.FAILED and "the proof is older than" in old.stdout
    assert isthmus("verify", "--workload", "nothing").returncode == Exit.NOT_FOUND


def test_conflicts_are_shown_with_both_values(isthmus: Run, channel_id: str) -> None:
    assert isthmus("channels", "create", channel_id, "--title", "Before").returncode == Exit.OK
    deadline = time.monotonic() + 60
    while isthmus("channels", "get", channel_id, "--region", "ap").returncode != Exit.OK:
        assert time.monotonic() < deadline, "ap does not have the channel"
    entity = ("--entity", f"Channel/{channel_id}")
    assert "No conflict is noted." in isthmus("conflicts", *entity).stdout
    try:
        assert isthmus("local", "wan", "cut", "ap").returncode == Exit.OK
        for region in ("ap", "eu"):
            update = ("channels", "update", channel_id, "--title", f"By {region}")
            assert isthmus(*update, "--region", region).returncode == Exit.OK
    finally:
        assert isthmus("local", "wan", "heal").returncode == Exit.OK
    deadline = time.monotonic() + 60
    while "By ap" not in (shown := isthmus("conflicts", *entity).stdout):
        assert time.monotonic() < deadline, shown
    (row,) = [line for line in shown.splitlines() if "title" in line]
    assert row.split()[:3] == [f"Channel/{channel_id}", "title", "LATEST"]
    assert row.index("By eu") < row.index("By ap")
    assert isthmus("channels", "delete", channel_id).returncode == Exit.OK


def test_commands_fail_over_to_the_next_edge(isthmus: Run, running_mesh: RunningMesh) -> None:
    assert isthmus("local", "region", "kill", "ap").returncode == Exit.OK
    try:
        assert isthmus("overview", "--region", "ap", "--json").returncode == Exit.OK
        down = isthmus("status")
        assert down.returncode == Exit.FAILED
        assert "edge" in down.stdout
    finally:
        started = isthmus("local", "region", "start", "ap")
    assert started.returncode == Exit.OK, started.stderr


def test_the_wan_is_broken_and_mended(isthmus: Run) -> None:
    cut = isthmus("local", "wan", "cut", "ap")
    assert cut.returncode == Exit.OK and "eu->ap" in cut.stdout
    assert isthmus("local", "wan", "delay", "eu", "us", "--ms", "20", "--jitter", "5").stdout == (
        "delayed: eu->us\n"
    )
    assert isthmus("local", "wan", "stall", "us", "eu").returncode == Exit.OK
    links = answer(isthmus("local", "wan", "show", "--json"))
    assert links["ap->us"]["cut"] and links["us->eu"]["stall"]
    assert links["eu->us"]["delay"] == 0.02
    assert isthmus("local", "wan", "heal").returncode == Exit.OK
    healed = answer(isthmus("local", "wan", "show", "--json"))
    assert not any(link["cut"] or link["stall"] or link["delay"] for link in healed.values())
    assert isthmus("local", "wan", "cut", "mars").returncode == Exit.NOT_FOUND
