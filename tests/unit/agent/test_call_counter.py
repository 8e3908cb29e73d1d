"""Calls as a sidecar's access log tells them, and its upstreams as its statistics do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mesh.agent.calls import OTHER, CallCounter, Tally
from mesh.agent.upstreams import Upstream, upstreams

GET, FOLLOW = "/a.v1.A/Get", "/a.v1.A/Follow"


def line(path: str = GET, grpc_status: str | None = "OK", **more: object) -> str:
    return json.dumps({"path": path, "status": 200, "grpc_status": grpc_status, **more}) + "\n"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "access.log"


@pytest.fixture
def counter(log: Path) -> CallCounter:
    log.write_text(line(grpc_status="Internal"))  # of before
    return CallCounter(log, {GET, FOLLOW}, {FOLLOW})


def append(log: Path, *lines: str) -> None:
    with log.open("a") as file:
        file.writelines(lines)


def test_what_comes_is_counted_by_method(log: Path, counter: CallCounter) -> None:
    append(log, line(), line(grpc_status="PermissionDenied"), line("/made.Up/It"))
    counter.read()
    assert counter.tallies == {GET: Tally(2, 1), OTHER: Tally(1, 0)}
    counter.read()
    assert counter.tallies[GET] == Tally(2, 1)


@pytest.mark.parametrize("code", ["NotFound", "InvalidArgument", "Aborted", "Canceled", "OK"])
def test_what_the_caller_asked_for_is_no_failure(
    log: Path, counter: CallCounter, code: str
) -> None:
    append(log, line(grpc_status=code))
    counter.read()
    assert counter.tallies == {GET: Tally(1, 0)}


@pytest.mark.parametrize(
    ("status", "failed"), [(200, False), (404, False), (403, True), (503, True), (0, False)]
)
def test_without_a_grpc_status_the_http_status_counts(
    log: Path, counter: CallCounter, status: int, failed: bool
) -> None:
    append(log, line(grpc_status=None, status=status))
    counter.read()
    assert counter.tallies == {GET: Tally(1, int(failed))}


def test_a_stream_that_lasted_has_not_failed(log: Path, counter: CallCounter) -> None:
    append(
        log,
        line(FOLLOW, "Unavailable", duration_ms=60_000),
        line(FOLLOW, "Unavailable", duration_ms=3),
        line(GET, "DeadlineExceeded", duration_ms=5_000),
    )
    counter.read()
    assert counter.tallies == {FOLLOW: Tally(2, 1), GET: Tally(1, 1)}


def test_half_a_line_waits_for_its_other_half(log: Path, counter: CallCounter) -> None:
    whole = line()
    append(log, whole[:20])
    counter.read()
    assert not counter.tallies
    append(log, whole[20:], "no JSON\n", "[]\n")
    counter.read()
    assert counter.tallies == {GET: Tally(1, 0)}


def test_a_new_log_is_read_from_its_beginning(log: Path, counter: CallCounter) -> None:
    append(log, *[line()] * 5)
    counter.read()
    log.write_text(line())
    counter.read()
    assert counter.tallies == {GET: Tally(6, 0)}


def test_a_log_may_be_missing(tmp_path: Path) -> None:
    counter = CallCounter(tmp_path / "none.log", {GET}, ())
    counter.read()
    assert not counter.tallies


def test_upstreams_are_read_from_statistics() -> None:
    page = """\
cluster.app.membership_healthy: 1
cluster.app.membership_total: 1
cluster.channels/nearest.circuit_breakers.default.cx_open: 0
cluster.channels/nearest.circuit_breakers.default.rq_open: 1
cluster.channels/nearest.membership_healthy: 2
cluster.channels/nearest.membership_total: 3
cluster.channels/nearest.outlier_detection.ejections_active: 1
cluster.devices/pinned/us.membership_healthy: 1
cluster.devices/pinned/us.membership_total: 1
"""
    assert upstreams(page) == [
        Upstream("channels/nearest", 3, 2, 1, True),
        Upstream("devices/pinned/us", 1, 1, 0, False),
    ]
