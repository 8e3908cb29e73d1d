"""`isthmus local root`: shows and begins the replacement of the root."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mesh.authority import keep, prepare
from mesh.cli.exits import Exit
from mesh.cli.main import run
from mesh.local.layout import Layout
from mesh.topology import load

MESH = Path(__file__).parents[3] / "mesh.yaml"


@pytest.fixture
def mesh(tmp_path: Path) -> Path:
    path = tmp_path / "mesh.yaml"
    path.write_text(MESH.read_text())
    return path


def said(capsys: pytest.CaptureFixture[str], mesh: Path, *words: str) -> tuple[int, str, str]:
    code = run(["local", "root", *words, "--mesh", str(mesh)])
    return code, *capsys.readouterr()


def test_a_mesh_without_a_root_says_so(mesh: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (("show",), ("replace",)):
        code, out, errors = said(capsys, mesh, *words)
        assert (code, out) == (Exit.NOT_FOUND, "")
        assert "`isthmus up` makes one" in errors


def test_it_is_begun_once_and_shown(mesh: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layout = Layout.of(load(mesh))
    prepare(layout.state, layout.topology, "eu", datetime.now(UTC))
    quiet = json.loads(said(capsys, mesh, "show", "--json")[1])
    assert quiet["step"] == "none"
    code, out, _ = said(capsys, mesh, "replace")
    assert code == Exit.OK
    assert "announced; while `isthmus up` runs the next step follows after 20" in out
    trusted = keep.root_file(layout.state).with_name("root.crt").read_text()
    assert trusted.count("BEGIN CERTIFICATE") == 2
    assert said(capsys, mesh, "replace")[1] == out
    assert said(capsys, mesh, "show")[1] == out


def test_a_damaged_root_is_named_with_the_remedy(
    mesh: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = Layout.of(load(mesh))
    prepare(layout.state, layout.topology, "eu", datetime.now(UTC))
    keep.root_file(layout.state).write_text("damaged")
    code, _, errors = said(capsys, mesh, "show")
    assert code == Exit.FAILED
    assert "root.pem is damaged" in errors and "restore it from a backup" in errors
