"""The log of calls of real sidecars stays bounded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mesh.agent import pages
from tests.e2e.sidecars import SmallMesh, call
from tests.support.agents import until

pytestmark = pytest.mark.e2e


def logged(log: Path) -> list[tuple[str, str]]:
    """The listener and the status of each call in a log."""
    if not log.exists():
        return []
    whole = log.read_bytes().rpartition(b"\n")[0]
    lines = map(json.loads, whole.splitlines())
    return [(line["listener"], line["grpc_status"]) for line in lines]


async def test_a_full_log_is_put_aside_and_goes_on(
    mesh: SmallMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(pages, "PAGE_BYTES", 100)
    await mesh.start(("eu", "beta"), ("eu", "alpha"))
    log = mesh.place("eu", "beta").logs / "access.log"
    aside = log.with_name("access.log.1")
    channel = mesh.egress("eu", "alpha")
    await call(channel, "Echo")
    await until(lambda: bool(logged(aside)))
    monkeypatch.setattr(pages, "PAGE_BYTES", 1 << 30)
    before = logged(aside)
    await call(channel, "Echo")
    await until(lambda: bool(logged(log)))
    assert logged(log) == before == [("inbound", "OK")]
