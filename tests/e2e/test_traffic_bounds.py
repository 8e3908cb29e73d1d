"""What keeps failures small: ejection, circuit breakers, retry budgets, waiting. Real Envoys."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import grpc
import pytest

from mesh.envoy import retries
from mesh.traffic import Bounds, Traffic
from tests.e2e.control import Said, eventually
from tests.e2e.sidecars import SmallMesh, call, status_of

pytestmark = pytest.mark.e2e

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
# All that is an answer. DEADLINE_EXCEEDED is not: what never answers in time may be a sick region.
ANSWERS = [
    code
    for code in grpc.StatusCode
    if code not in (grpc.StatusCode.OK, UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
]


def bound(mesh: SmallMesh, bounds: Bounds) -> None:
    """Sets what holds for those who call beta."""
    mesh.topology = replace(mesh.topology, traffic=Traffic(bounds=(("beta", bounds),)))


async def counted(mesh: SmallMesh, name: str) -> int:
    """A counter or gauge of alpha's cluster for beta."""
    said = await Said(mesh, "eu", "alpha").statistics(rf"^cluster\.beta/nearest\.{name}$")
    return sum(said.values())


async def test_a_region_that_fails_in_a_row_is_left_alone(mesh: SmallMesh) -> None:
    bound(mesh, Bounds(ejected_for=300.0))
    await mesh.start(("eu", "beta"), ("us", "beta"), ("eu", "alpha"))
    alpha = mesh.egress("eu", "alpha")
    assert (await call(alpha, "Echo")).startswith("eu ")

    async def fails() -> bool:
        code, _ = await status_of(call(alpha, "Fail", {"status": "UNAVAILABLE"}))
        assert code == UNAVAILABLE
        return await counted(mesh, r"outlier_detection\.ejections_active") >= 1

    await eventually(fails)
    await eventually(lambda: _in(mesh, "us"))
    assert mesh.apps["eu"].seen["Fail"] >= 3


async def _in(mesh: SmallMesh, region: str) -> bool:
    return (await call(mesh.egress("eu", "alpha"), "Echo")).startswith(f"{region} ")


async def test_an_answer_is_neither_repeated_nor_held_against_its_region(mesh: SmallMesh) -> None:
    """NOT_YET_HERE is ABORTED; and one method's bug must not take the region from all others."""
    await mesh.start(("eu", "beta"), ("us", "beta"), ("eu", "alpha"))
    alpha = mesh.egress("eu", "alpha")
    for code in ANSWERS:
        for _ in range(5):
            assert await status_of(call(alpha, "Fail", {"status": code.name})) == (code, "as asked")
    assert mesh.apps["eu"].seen["Fail"] == 5 * len(ANSWERS)
    assert not mesh.apps["us"].seen["Fail"]
    assert await counted(mesh, r"outlier_detection\.ejections_active") == 0
    assert await counted(mesh, "upstream_rq_retry") == 0
    assert await _in(mesh, "eu")


async def test_calls_beyond_the_circuit_breaker_fail_at_once_and_go_nowhere(
    mesh: SmallMesh,
) -> None:
    bound(mesh, Bounds(requests=2))
    await mesh.start(("eu", "beta"), ("us", "beta"), ("eu", "alpha"))
    alpha = mesh.egress("eu", "alpha")
    held = [asyncio.ensure_future(status_of(call(alpha, "Once", within=60))) for _ in range(2)]

    async def both_arrived() -> bool:
        return mesh.apps["eu"].seen["Once"] == 2

    await eventually(both_arrived)
    code, details = await status_of(call(alpha, "Echo"))
    assert (code, "overflow" in details) == (UNAVAILABLE, True)
    assert await counted(mesh, r"circuit_breakers\.default\.rq_open") == 1
    assert not mesh.apps["eu"].seen["Echo"] and not mesh.apps["us"].seen["Echo"]
    for each in held:
        each.cancel()

    async def passes() -> bool:
        return (await status_of(call(alpha, "Echo")))[0] == grpc.StatusCode.OK

    await eventually(passes)


@pytest.mark.parametrize("bounds", [Bounds(), Bounds(retry_percent=0.0, retries=1)])
async def test_retries_keep_to_their_budget(mesh: SmallMesh, bounds: Bounds) -> None:
    bound(mesh, replace(bounds, failures=1000))
    await mesh.start(("eu", "beta"), ("us", "beta"), ("eu", "alpha"))
    alpha = mesh.egress("eu", "alpha")
    calls = 20
    answers = await asyncio.gather(
        *(status_of(call(alpha, "Fail", {"status": "UNAVAILABLE"})) for _ in range(calls))
    )
    assert {code for code, _ in answers} == {UNAVAILABLE}
    arrived = mesh.apps["eu"].seen["Fail"] + mesh.apps["us"].seen["Fail"]
    cut_short = await counted(mesh, "upstream_rq_retry_overflow")
    if bounds == Bounds():
        assert (arrived, cut_short) == (3 * calls, 0)
    else:
        # Each call had one attempt, and few had more.
        assert calls <= arrived <= 2 * calls
        assert cut_short >= calls // 2


async def test_a_call_that_cannot_go_elsewhere_waits_for_what_is_started_again(
    mesh: SmallMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not idempotent: it is sent once, when there is somebody to take it."""
    monkeypatch.setattr(retries, "_WAITS", 200)  # a slow machine starts slowly
    await mesh.start(("eu", "beta"), ("eu", "alpha"))
    alpha = mesh.egress("eu", "alpha")
    said = Said(mesh, "eu", "beta")
    await mesh.apps["eu"].stop()
    waiting = asyncio.ensure_future(call(alpha, "Near", within=30))

    async def tried() -> bool:
        found = await said.statistics(r"^cluster\.app\.upstream_rq_retry$")
        return sum(found.values()) >= 2

    await eventually(tried)
    assert not waiting.done()
    await mesh.apps["eu"].start()
    assert (await waiting).startswith("eu ")
    assert mesh.apps["eu"].seen["Near"] == 1

    await mesh.sidecars["eu", "beta"].kill()
    waiting = asyncio.ensure_future(call(alpha, "Near", within=30))
    caller = Said(mesh, "eu", "alpha")

    async def tried_again() -> bool:
        found = await caller.statistics(r"^cluster\.beta/local\.upstream_rq_retry$")
        return sum(found.values()) >= 2

    await eventually(tried_again)
    await mesh.sidecars["eu", "beta"].start()
    assert (await waiting).startswith("eu ")
    assert mesh.apps["eu"].seen["Near"] == 2
