"""`revoked` in mesh.yaml: read strictly, kept in copies, and seen by a running authority."""

from __future__ import annotations

from pathlib import Path

import pytest

from mesh.authority.revocations import Revocations
from mesh.local.derive import derive
from mesh.topology import Topology, TopologyError, load

MESH = """\
version: 1
trust_domain: isthmus.test
regions:
  - {{name: eu, host: 127.0.0.1, base_port: 21000}}
workloads: [authority]
media: {{root: media, origin: "127.0.0.1:21300"}}
{revoked}
"""
GONE = "spiffe://isthmus.test/region/eu/workload/channels"


def _load(folder: Path, revoked: str = "") -> Topology:
    file = folder / "mesh.yaml"
    file.write_text(MESH.format(revoked=revoked))
    return load(file)


def test_it_is_a_list_of_identities(tmp_path: Path) -> None:
    assert _load(tmp_path).revoked == frozenset()
    found = _load(tmp_path, f"revoked: [{GONE}, spiffe://isthmus.test/device/cam-1]")
    assert found.revoked == {GONE, "spiffe://isthmus.test/device/cam-1"}
    (tmp_path / "copy").mkdir()
    assert derive(found, tmp_path / "copy", [30000, 30100]).revoked == found.revoked


@pytest.mark.parametrize(
    "wrong",
    [
        "revoked: channels",
        "revoked: [channels]",
        "revoked: [spiffe://other.test/device/cam-1]",
        "revoked: [spiffe://isthmus.test/region/mars/workload/channels]",
        "revoked: [spiffe://isthmus.test/device/cam-1/x]",
    ],
)
def test_what_shuts_nobody_out_is_refused(tmp_path: Path, wrong: str) -> None:
    with pytest.raises(TopologyError, match="revoked"):
        _load(tmp_path, wrong)


def test_a_running_authority_hears_of_it(tmp_path: Path) -> None:
    found = Revocations(_load(tmp_path))
    assert not found.has(GONE)
    _load(tmp_path, f"revoked: [{GONE}]")
    assert found.has(GONE)
    # A file that cannot be read lets nobody in again.
    (tmp_path / "mesh.yaml").write_text("revoked: [")
    assert found.has(GONE)
    (tmp_path / "mesh.yaml").unlink()
    assert found.has(GONE)
    _load(tmp_path)
    assert not found.has(GONE)
