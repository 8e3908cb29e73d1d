"""`isthmus status` says which certificates should have been replaced, each issuer once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from isthmus.mesh.v1.status_pb2 import GetStatusResponse

from mesh.cli import status
from mesh.cli.certificates import overdue
from mesh.cli.standing import Standing

HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def standing(workload: str, leaf: timedelta, issuing: timedelta, root: timedelta) -> Standing:
    answer = GetStatusResponse(workload=workload, region="eu")
    now = datetime.now(UTC)
    answer.certificate.not_after.FromDatetime(now + leaf)
    for level, left in (("issuing", issuing), ("root", root)):
        answer.certificate.issuers.add(level=level).not_after.FromDatetime(now + left)
    return Standing("eu", workload, answer)


def test_a_chain_in_time_is_not_mentioned() -> None:
    good = standing("channels", HOUR, 300 * DAY, 3000 * DAY)
    assert list(overdue([good, Standing("us", "channels", None, "down")], datetime.now(UTC))) == []


def test_what_is_overdue_is_named_with_whose_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    standings = [
        standing("channels", timedelta(minutes=10), 30 * DAY, 3000 * DAY),
        standing("devices", HOUR, 30 * DAY, 3000 * DAY),
    ]
    status._show(standings, [], [])
    shown = capsys.readouterr().out
    assert "eu/channels: its certificate ends in 10 min and should have been replaced" in shown
    assert "eu/channels, eu/devices: its region's issuing certificate ends in 720.0 h" in shown
    assert shown.count("docs/runbooks/identity.md") == 2


def test_what_has_ended_says_so() -> None:
    (line,) = overdue([standing("channels", -HOUR, 300 * DAY, 3000 * DAY)], datetime.now(UTC))
    assert line.startswith("eu/channels: its certificate ended 60 min ago: see ")
