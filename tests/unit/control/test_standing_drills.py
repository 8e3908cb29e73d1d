"""Drills in the state of a region's sidecars, and how `isthmus mesh status` says them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from isthmus.mesh.v1.sidecars_pb2 import FleetStatus

from mesh.cli import mesh_status
from mesh.control.standing import fleet_status
from mesh.traffic import Drill
from mesh.xds.fleet import Fleet, Revision

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


def drill(name: str, minutes: int) -> Drill:
    until = NOW + timedelta(minutes=minutes)
    return Drill(name, "channels", until, 20, abort="UNAVAILABLE", callers=("overview",))


AFAR = Drill("afar", "channels", NOW + timedelta(minutes=5), 20, delay=1, regions=("us",))
DRILLS = {"good": (drill("sick", 5), drill("over", 0), AFAR), "trial": (drill("slow", 9),)}


def state(region: str) -> FleetStatus:
    fleet = Fleet(Revision("good", {}))
    fleet.offer(Revision("trial", {}), ())
    now_ms = int(NOW.timestamp() * 1000)
    return fleet_status(region, "good", fleet, {}, now_ms, drills=DRILLS.__getitem__)


def test_drills_are_said_until_they_are_over() -> None:
    found = state("eu").drills
    assert [(each.name, each.revision) for each in found] == [("sick", "good"), ("slow", "trial")]
    assert found[0].until.ToDatetime(UTC) == NOW + timedelta(minutes=5)
    assert "20 % of the calls of channels, all methods by overview fail with" in found[0].text


def test_a_drill_is_told_once_with_the_regions_that_have_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    mesh_status._print({"eu": state("eu"), "us": state("us"), "ap": "is away"}, {}, NOW)
    told = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in told if "DRILL sick" in line] == ["eu, us"]
    assert [line.partition(":")[0] for line in told if "DRILL afar" in line] == ["us"]
    assert not any("DRILL over" in line for line in told)
