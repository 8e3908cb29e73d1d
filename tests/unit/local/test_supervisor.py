"""What the supervisor leaves behind."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mesh.contracts import load as load_contract
from mesh.local.errors import StartFailed
from mesh.local.layout import Layout
from mesh.local.supervisor import Supervisor
from mesh.topology import load
from tests.support.ports import free_blocks

MESH = """\
version: 1
trust_domain: isthmus.test
regions:
  - {{name: eu, host: 127.0.0.1, base_port: {eu}}}
workloads: [authority]
media: {{root: media, origin: "127.0.0.1:{origin}"}}
"""


async def test_a_change_at_the_very_end_leaves_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    eu, origin = free_blocks(2)
    path = tmp_path / "mesh.yaml"
    path.write_text(MESH.format(eu=eu, origin=origin))
    layout = Layout(load(path), tmp_path / ".isthmus", tmp_path / "run")
    supervisor = Supervisor(load_contract(), layout, lambda progress: None)

    async def start() -> None:
        supervisor._changed()
        raise StartFailed("as if a workload did not start")

    monkeypatch.setattr(supervisor, "_start", start)
    with pytest.raises(StartFailed):
        await supervisor.run(lambda record: None)
    assert not layout.record.exists()
    # The write that the change asked for was due in a tenth of a second.
    await asyncio.sleep(0.2)
    assert not layout.record.exists()
