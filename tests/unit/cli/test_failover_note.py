"""A mesh of one region is told what it lacks."""

from __future__ import annotations

from pathlib import Path

import pytest

from mesh.cli.failover import note_missing_failover
from mesh.contracts import load as load_contract
from mesh.topology import load

MESH = """\
version: 1
trust_domain: isthmus.test
regions: [{regions}]
workloads: [authority, devices]
media: {{root: media, origin: "127.0.0.1:31900"}}
"""
ONE = "{name: eu, host: 127.0.0.1, base_port: 31700}"
TWO = f"{ONE}, {{name: us, host: 127.0.0.1, base_port: 31800}}"


@pytest.mark.parametrize(("regions", "noted"), [(ONE, True), (TWO, False)])
def test_failover_with_one_region_is_noted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], regions: str, noted: bool
) -> None:
    path = tmp_path / "mesh.yaml"
    path.write_text(MESH.format(regions=regions))
    note_missing_failover(load_contract(), load(path))
    said = capsys.readouterr().err
    assert said.startswith("note: mesh.yaml has one region: ") is noted
    assert bool(said) is noted
