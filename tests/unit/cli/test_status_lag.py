"""How `isthmus status` tells what is missing, and what waits."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration
from isthmus.mesh.v1 import status_pb2
from isthmus.replication.v1 import frame_pb2, lag_pb2, link_pb2

from mesh.cli.status import _lags, _snapshot, _waiting


def group(**fields: object) -> status_pb2.GetStatusResponse:
    return status_pb2.GetStatusResponse(
        group=status_pb2.GroupStatus(group="channels", **fields)  # type: ignore[arg-type]
    )


def test_a_lag_that_may_be_more_says_so() -> None:
    twelve = Duration(seconds=12)
    links = [
        link_pb2.LinkStatus(peer="ap", connected=True),
        link_pb2.LinkStatus(peer="eu", connected=True, lag_changes=3, lag=twelve),
        link_pb2.LinkStatus(
            peer="sa", connected=True, lag_changes=3, lag=twelve, lag_at_least=True
        ),
        link_pb2.LinkStatus(peer="us", silence=twelve, lag_at_least=True),
        link_pb2.LinkStatus(
            peer="za", silence=twelve, lag_changes=3, lag=twelve, lag_at_least=True
        ),
    ]
    ap, eu, sa, us, za = _lags(group(links=links))
    assert ap == "ap 0"
    assert "3" in eu and ">=" not in eu
    assert sa == eu.replace("eu ", "sa >= ")
    assert us.startswith("us cut off 12")
    assert za.startswith("za cut off 12") and za.endswith(sa.removeprefix("sa "))


def test_what_waits_says_for_what() -> None:
    eu, us = frame_pb2.Origin(region="eu"), frame_pb2.Origin(region="us")
    missing = frame_pb2.Vector(positions=[frame_pb2.Position(origin=us, sequence=7)])
    lines = _waiting(
        group(
            waiting=[
                lag_pb2.WaitingFrames(origin=eu, frames=2, bytes=100, missing=missing),
                lag_pb2.WaitingFrames(origin=eu, frames=1, bytes=50, relay="ap", refusal="no root"),
                lag_pb2.WaitingFrames(origin=us, frames=1, bytes=50),
            ]
        )
    )
    assert lines == [
        "channels: 2 frames of eu (100 bytes) wait for changes of us",
        "channels: 1 frames of eu (50 bytes) wait for its signature (relayed by ap): no root",
        "channels: 1 frames of us (50 bytes) wait for the disk",
    ]


def test_a_snapshot_under_way_says_from_whom_and_how_far() -> None:
    assert _snapshot(group()) == []
    half = status_pb2.SnapshotStatus(
        peer="eu", entities_taken=1200, entities=4000, bytes_taken=3 << 20
    )
    assert _snapshot(group(snapshot=half)) == [
        "channels: takes a snapshot from eu: 1200 of 4000 entities (30 %), 3.0 MiB"
    ]
    (line,) = _snapshot(group(snapshot=status_pb2.SnapshotStatus(peer="eu")))
    assert "0 of 0 entities (all)" in line
