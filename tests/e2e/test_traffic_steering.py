"""Versions, mirrors and drills, judged by what real Envoys do with calls."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import timedelta
from typing import Any

import grpc
import pytest

from mesh.agent import Sidecar
from mesh.agent.sidecar import utc_now
from mesh.identity.spiffe import WorkloadId
from mesh.traffic import Drill, Mirror, Traffic, Version
from tests.e2e.control import eventually
from tests.e2e.sidecars import DOMAIN, SERVICE, App, SmallMesh, call, path, status_of

pytestmark = pytest.mark.e2e


def version(mesh: SmallMesh, weight: int) -> Version:
    """Another version of beta in eu."""
    region = mesh.topology.region("eu")
    return Version("beta", "next", "eu", region.host, region.base_port + 5, weight)


async def start(mesh: SmallMesh, traffic: Traffic) -> App:
    """Beta in both regions, its other version in eu, and alpha there, under these settings."""
    mesh.topology = replace(mesh.topology, traffic=traffic)
    await mesh.start(("eu", "beta"), ("us", "beta"), ("eu", "alpha"))
    place = replace(
        mesh.place("eu", "beta"),
        run=mesh.run / "eu" / "next",
        state=mesh.state / "eu" / "beta-next",
        version="next",
    )
    place.run.mkdir(parents=True)
    mesh.credentials(WorkloadId(DOMAIN, "eu", "beta"), "eu").write(place.identity)
    mesh.apps["next"] = app = App("next", place.app_socket)
    await app.start()
    mesh.sidecars["eu", "next"] = sidecar = Sidecar(mesh.contract, mesh.topology, place)
    await sidecar.start()
    return app


async def answers(mesh: SmallMesh, method: str, calls: int) -> Counter[str]:
    """Who answered."""
    channel = mesh.egress("eu", "alpha")
    return Counter([(await call(channel, method)).split()[0] for _ in range(calls)])


async def test_a_version_gets_its_share_and_costs_no_call_if_it_fails(mesh: SmallMesh) -> None:
    await start(mesh, Traffic(versions=(version(mesh, 30),)))

    async def found_healthy() -> bool:
        return bool((await answers(mesh, "Echo", 5))["next"])

    await eventually(found_healthy)
    for method in ("Echo", "Near"):
        found = await answers(mesh, method, 200)
        assert found.keys() == {"eu", "next"}
        assert 20 <= found["next"] <= 110  # 60 are expected; nobody is this unlucky
    await mesh.sidecars["eu", "next"].kill()
    assert (await answers(mesh, "Echo", 100)).keys() == {"eu"}


async def test_mirrors_get_copies_and_nobody_waits_for_them(mesh: SmallMesh) -> None:
    mirrors = (
        Mirror(f"{SERVICE}/Echo", 100.0, version="next"),
        Mirror(f"{SERVICE}/Plain", 100.0, region="us", effects=True),
    )
    app = await start(mesh, Traffic(versions=(version(mesh, 0),), mirrors=mirrors))
    assert (await answers(mesh, "Echo", 20)).keys() == {"eu"}
    assert (await answers(mesh, "Plain", 20)).keys() == {"eu"}

    async def all_copied() -> bool:
        return app.seen["Echo"] == mesh.apps["us"].seen["Plain"] == 20

    await eventually(all_copied)
    assert mesh.apps["eu"].seen["Echo"] == mesh.apps["eu"].seen["Plain"] == 20
    # What becomes of the copies is nobody's business.
    await app.stop()
    await mesh.sidecars["us", "beta"].kill()
    assert (await answers(mesh, "Echo", 20)).keys() == {"eu"}
    assert (await answers(mesh, "Plain", 20)).keys() == {"eu"}


async def outcome(mesh: SmallMesh, method: str) -> tuple[grpc.StatusCode, str, str]:
    """Status, answer and the drill that it names."""
    calling = mesh.egress("eu", "alpha").unary_unary(path(method))(b"", timeout=20)
    code = await calling.code()
    metadata: dict[str, Any] = dict(await calling.initial_metadata() or ())
    metadata |= dict(await calling.trailing_metadata() or ())
    answer = (await calling).decode() if code is grpc.StatusCode.OK else ""
    return code, answer.partition(" ")[0], metadata.get("x-isthmus-drill", "")


async def test_drills_do_what_they_say_say_so_and_end_by_themselves(mesh: SmallMesh) -> None:
    now = utc_now()
    hour, past = now + timedelta(hours=1), now - timedelta(seconds=1)

    def drill(name: str, method: str, **settings: Any) -> Drill:
        given = {"until": hour, "percent": 100.0, "methods": (f"{SERVICE}/{method}",)}
        return Drill(name, "beta", **(given | settings))

    drills = (
        drill("sick-region", "Echo", abort="UNAVAILABLE", regions=("eu",)),
        drill("slow", "Near", delay=1.0, callers=("alpha",)),
        drill("full", "Plain", abort="RESOURCE_EXHAUSTED", callers=("alpha",)),
        drill("others", "Homed", abort="DATA_LOSS", callers=("edge",)),
        drill("over", "Limited", abort="INTERNAL", until=past),
        drill("short", "Homed", abort="INTERNAL", until=now + timedelta(seconds=10)),
    )
    mesh.topology = replace(mesh.topology, traffic=Traffic(drills=drills))
    await mesh.start(("eu", "beta"), ("us", "beta"), ("eu", "alpha"))
    # Met by retries and failover, as a sick region would be.
    code, region, _ = await outcome(mesh, "Echo")
    assert (code, region) == (grpc.StatusCode.OK, "us")
    assert not mesh.apps["eu"].seen["Echo"]
    named = f"slow until {hour.isoformat()}"
    assert await outcome(mesh, "Near") == (grpc.StatusCode.OK, "eu", named)
    code, _, named = await outcome(mesh, "Plain")
    assert (code, named) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        f"full until {hour.isoformat()}",
    )
    assert not mesh.apps["eu"].seen["Plain"] and not mesh.apps["us"].seen["Plain"]
    assert (await outcome(mesh, "Limited"))[:2] == (grpc.StatusCode.OK, "eu")

    async def over() -> bool:
        code, _ = await status_of(call(mesh.egress("eu", "alpha"), "Homed"))
        assert code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.FAILED_PRECONDITION)
        return code is grpc.StatusCode.FAILED_PRECONDITION  # its own, not the edge's drill's

    await eventually(over, within=60)
