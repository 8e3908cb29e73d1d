"""`isthmus status` shows what waits for a newer version, and does not call that a difference."""

from __future__ import annotations

import pytest
from isthmus.mesh.v1.status_pb2 import GetStatusResponse

from mesh.cli import status
from mesh.cli.standing import Standing, agreements


def standing(region: str, digest: bytes, parked: int = 0) -> Standing:
    answer = GetStatusResponse(workload="channels", region=region)
    answer.group.group = "channels"
    answer.group.digest = digest
    position = answer.group.vector.positions.add(sequence=3)
    position.origin.region = "eu"
    if parked:
        each = answer.group.parked.add(
            type="isthmus.channels.v1.Channel", field="notes", rule=11, changes=parked
        )
        each.since.FromSeconds(1_700_000_000)
    return Standing(region, "channels", answer)


def test_who_parks_is_not_compared(capsys: pytest.CaptureFixture[str]) -> None:
    standings = [standing("ap", b"a"), standing("eu", b"a"), standing("us", b"other", parked=4)]
    (agreement,) = agreements(standings)
    assert (agreement.differing, agreement.parked, agreement.digest) == ((), ("us",), b"a".hex())
    status._show(standings, [agreement], [])
    shown = capsys.readouterr().out
    parked = "us/channels: parked: 4 changes of isthmus.channels.v1.Channel notes (merge rule 11)"
    assert parked in shown
    assert "since 2023-11-1" in shown
    assert "channels: not comparable: parked changes in us" in shown
    assert "DIFFERENT" not in shown


def test_the_others_are_still_compared() -> None:
    (agreement,) = agreements(
        [standing("ap", b"a"), standing("eu", b"b"), standing("us", b"a", parked=1)]
    )
    assert agreement.differing == ("ap", "eu")
