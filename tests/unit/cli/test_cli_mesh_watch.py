"""`isthmus mesh drift` and `tap` without a mesh, and how they say what they have found."""

from __future__ import annotations

from pathlib import Path

import pytest
from isthmus.mesh.v1.tap_pb2 import TappedCall, TapResponse

from mesh.cli import mesh_tap
from mesh.cli.exits import Exit
from mesh.cli.main import run

MESH = """\
version: 1
trust_domain: isthmus.test
regions:
  - {name: eu, host: 127.0.0.1, base_port: 21000}
workloads: [authority]
media: {root: media, origin: "127.0.0.1:21300"}
"""


@pytest.fixture
def mesh(tmp_path: Path) -> str:
    path = tmp_path / "mesh.yaml"
    path.write_text(MESH)
    return str(path)


@pytest.mark.parametrize(
    "arguments, code, message",
    [
        (["drift"], Exit.UNREACHABLE, "this mesh is not up"),
        (["tap"], Exit.UNREACHABLE, "this mesh is not up"),
        (["tap", "--region", "mars"], Exit.NOT_FOUND, "mars: "),
        (["tap", "--method", "Explode"], Exit.NOT_FOUND, "no method 'Explode'"),
        (["tap", "--count", "0"], Exit.USAGE, "--count"),
    ],
)
def test_a_user_s_mistake_is_told(
    arguments: list[str],
    code: Exit,
    message: str,
    mesh: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["mesh", *arguments, "--mesh", mesh]) == code
    told = capsys.readouterr()
    assert message in told.err
    assert "Traceback" not in told.err


def call() -> TappedCall:
    found = TappedCall(
        caller="spiffe://isthmus.test/region/eu/workload/over\nview",
        callee="channels",
        path="/a.B/C",
        status="UNAVAILABLE",
        attempts=2,
        details="upstream_reset",
    )
    found.sidecar.region, found.sidecar.workload = "eu", "channels"
    found.time.FromJsonString("2026-11-23T17:00:29.360Z")
    found.latency.FromMilliseconds(12)
    return found


def test_a_call_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    shown = mesh_tap._Shown(as_json=False, most=None)
    shown.show("eu", TapResponse(calls=[call()], left_out=3))
    told = capsys.readouterr()
    (line,) = told.out.splitlines()
    assert line.endswith(
        "eu/channels  eu/over\\nview > channels  a.B/C  UNAVAILABLE  12 ms  2 attempts"
        "  (upstream_reset)"
    )
    assert told.err == "eu: 3 more calls are left out\n"


def test_it_ends_after_as_many_as_were_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    shown = mesh_tap._Shown(as_json=True, most=2)
    with pytest.raises(mesh_tap._Enough):
        shown.show("eu", TapResponse(calls=[call()] * 5))
    assert len(capsys.readouterr().out.splitlines()) == 2
