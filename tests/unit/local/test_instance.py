"""An instance keeps its sidecar running, whatever becomes of it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from mesh import topology as topologies
from mesh.agent import SidecarDied, SidecarNotReady, State, Status
from mesh.contracts.model import Contract
from mesh.local import instance as instances
from mesh.local.instance import Instance
from mesh.local.progress import Progress
from mesh.place import EDGE, Place

TOPOLOGY = topologies.load(Path(__file__).parents[3] / "mesh.yaml")


class Brittle:
    """A sidecar by its script: each word is what the next start comes to."""

    script: list[str]

    def __init__(self, *_: Any, **__: Any) -> None:
        self.status = Status("eu", EDGE, State.NEW)
        self.pid = None
        self._word = ""

    async def start(self, *_: Any, **__: Any) -> None:
        self._word = self.script.pop(0)
        if self._word == "not ready":
            self.status = Status("eu", EDGE, State.FAILED)
            raise SidecarNotReady("Envoy was not ready")
        self.status = Status("eu", EDGE, State.READY)

    async def wait(self) -> None:
        if self._word == "dies":
            self.status = Status("eu", EDGE, State.FAILED)
            raise SidecarDied("Envoy ended with SIGKILL")
        if self._word == "lives":
            await asyncio.Event().wait()

    async def stop(self, *, drain: bool) -> None:
        self.status = Status("eu", EDGE, State.STOPPED)


async def test_a_sidecar_that_dies_is_started_until_it_is_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instances, "Sidecar", Brittle)
    monkeypatch.setattr(instances, "FIRST_BACKOFF", 0.001)
    Brittle.script = ["dies", "not ready", "not ready", "lives"]
    told: list[Progress] = []

    async def no_token(_: str) -> None:
        return None

    instance = Instance(
        Contract({}, {}),
        TOPOLOGY,
        Place("eu", EDGE, TOPOLOGY.path, tmp_path / "run", tmp_path / "state"),
        told.append,
        lambda: None,
        no_token,
    )
    await instance.start(None)
    async with asyncio.timeout(10):
        while Brittle.script:
            await asyncio.sleep(0.001)
    assert instance.running
    assert [each.detail for each in told if each.part == f"eu/{EDGE}/sidecar"] == [
        "Envoy ended with SIGKILL",
        "Envoy was not ready",
        "Envoy was not ready",
    ]
    await instance.stop_sidecar()
