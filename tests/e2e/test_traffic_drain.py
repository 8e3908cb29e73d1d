"""Restart, upgrade and scale-down under load: no call is lost, whatever its method. Real Envoys."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import grpc
import pytest

from mesh.agent import SidecarDied, SidecarNotReady, admin, hot_restart
from mesh.envoy import listeners, retries
from tests.e2e.sidecars import SmallMesh, call, path, status_of

pytestmark = pytest.mark.e2e

ANYWHERE = ("Echo", "Plain")
METHODS = (*ANYWHERE, "Near")


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine starts an Envoy slowly, and the calls of a test wait as long as it takes."""
    monkeypatch.setattr(retries, "_WAITS", 60)


@pytest.fixture
def short_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """An Envoy that is followed by another ends after twelve seconds."""
    monkeypatch.setattr(listeners, "IDLE", timedelta(seconds=2))


class Load:
    """Callers of each method in a loop; counts answers by method and region, keeps failures."""

    def __init__(self, channel: grpc.aio.Channel, methods: tuple[str, ...], callers: int = 4):
        self.answers: Counter[tuple[str, str]] = Counter()
        self.failures: list[str] = []
        self.sent: Counter[str] = Counter()
        self._stopping = False
        self._progress = asyncio.Condition()
        self._tasks = [
            asyncio.ensure_future(self._run(channel, method))
            for method in methods
            for _ in range(callers)
        ]

    async def more(self, region: str, methods: tuple[str, ...], answers: int = 30) -> None:
        """Waits until a region has answered so many more calls of each method."""
        wanted = {method: self.answers[method, region] + answers for method in methods}
        await self._until(lambda: all(self.answers[m, region] >= n for m, n in wanted.items()))

    async def stop(self) -> list[str]:
        """Ends the callers; returns every failure."""
        self._stopping = True
        await asyncio.gather(*self._tasks)
        return self.failures

    async def _until(self, reached: Callable[[], bool]) -> None:
        async with self._progress:
            await asyncio.wait_for(self._progress.wait_for(reached), 60)

    async def _run(self, channel: grpc.aio.Channel, method: str) -> None:
        while not self._stopping:
            self.sent[method] += 1
            try:
                answer = await call(channel, method, within=30)
                self.answers[method, answer.split()[0]] += 1
            except grpc.aio.AioRpcError as error:
                self.failures.append(f"{method}: {error.code().name}: {error.details()}")
            async with self._progress:
                self._progress.notify_all()


async def test_a_process_is_started_again_without_a_lost_call(mesh: SmallMesh) -> None:
    await mesh.start(("eu", "beta"), ("us", "beta"), ("eu", "alpha"))
    load = Load(mesh.egress("eu", "alpha"), METHODS)
    sidecar, app = mesh.sidecars["eu", "beta"], mesh.apps["eu"]
    await load.more("eu", METHODS)
    for _ in range(3):
        await sidecar.pause()
        await app.stop(grace=5.0)
        await load.more("us", ANYWHERE)
        await app.start()
        await sidecar.resume()
        await load.more("eu", METHODS)
    assert await load.stop() == []
    # None was sent twice either: what is not idempotent was seen as often as it was called.
    for method in ("Plain", "Near"):
        assert app.seen[method] + mesh.apps["us"].seen[method] == load.sent[method]


async def test_a_sidecar_is_started_again_without_a_lost_call(
    mesh: SmallMesh, short_idle: None
) -> None:
    """Neither those that it takes in nor those of its own application, and none goes elsewhere."""
    await mesh.start(("eu", "beta"), ("us", "beta"), ("eu", "alpha"))
    load = Load(mesh.egress("eu", "alpha"), METHODS)
    await load.more("eu", METHODS)
    for workload in ("beta", "alpha", "beta"):
        sidecar = mesh.sidecars["eu", workload]
        old = sidecar.pid
        await sidecar.restart()
        assert sidecar.pid not in (None, old)
        await load.more("eu", METHODS)
    for sidecar in mesh.sidecars.values():
        await sidecar.settled()
    await load.more("eu", METHODS)
    assert await load.stop() == []
    # None was sent twice either: what is not idempotent was seen as often as it was called.
    for method in ("Plain", "Near"):
        assert mesh.apps["eu"].seen[method] == load.sent[method]
    for region, workload in mesh.sidecars:
        assert await admin.in_flight(mesh.place(region, workload).admin_socket) == 0


async def test_streams_outlive_a_hand_over_and_are_opened_again(
    mesh: SmallMesh, short_idle: None
) -> None:
    await mesh.start(("us", "beta"), ("eu", "beta"))
    sidecar = mesh.sidecars["us", "beta"]
    follow = mesh.egress("eu", "beta", "beta.us").unary_stream(path("Follow"))
    stream = aiter(follow(b""))
    assert await anext(stream) == b"us"
    await sidecar.restart()
    for _ in range(10):
        assert await anext(stream) == b"us"

    async def rest() -> None:
        async for _ in stream:
            pass

    code, _ = await asyncio.wait_for(status_of(rest()), 60)
    assert code is not grpc.StatusCode.OK
    await sidecar.settled()
    assert await anext(aiter(follow(b""))) == b"us"


async def test_an_envoy_that_cannot_take_over_leaves_the_one_before_at_work(
    mesh: SmallMesh, short_idle: None
) -> None:
    await mesh.start(("eu", "beta"), ("eu", "alpha"))
    sidecar = mesh.sidecars["eu", "beta"]
    load = Load(mesh.egress("eu", "alpha"), METHODS)
    old = sidecar.pid
    with pytest.raises(SidecarNotReady):
        await sidecar.restart(ready_within=0)
    assert "the Envoy before goes on" in sidecar.status.problem
    assert sidecar.pid == old
    await load.more("eu", METHODS)
    await sidecar.restart()
    assert (sidecar.status.problem, sidecar.pid == old) == ("", False)
    await load.more("eu", METHODS)
    assert await load.stop() == []


async def test_an_envoy_that_dies_during_a_hand_over_can_be_started_again(mesh: SmallMesh) -> None:
    await mesh.start(("eu", "beta"), ("eu", "alpha"))
    sidecar = mesh.sidecars["eu", "beta"]
    former = sidecar.pid
    await sidecar.restart()
    assert former is not None and sidecar.pid is not None
    dies = asyncio.ensure_future(sidecar.wait())
    os.kill(sidecar.pid, signal.SIGKILL)
    with pytest.raises(SidecarDied, match="SIGKILL"):
        await dies
    with pytest.raises(ProcessLookupError):
        os.kill(former, 0)
    await sidecar.start()
    assert await call(mesh.egress("eu", "alpha"), "Near") != ""


async def test_nothing_of_a_hand_over_is_left(mesh: SmallMesh, short_idle: None) -> None:
    await mesh.start(("eu", "beta"), ("us", "beta"))
    for sidecar in mesh.sidecars.values():
        await sidecar.restart()
    # By the names of their own: others may run on this machine.
    names = [int(each.read_text()) * 10 for each in mesh.run.rglob("base-id")]
    shared = [Path(f"/dev/shm/envoy_shared_memory_{name}") for name in names]
    assert [each.exists() for each in shared] == [True, True]
    await mesh.sidecars["eu", "beta"].stop()
    await mesh.sidecars["us", "beta"].kill()
    assert not {each for each in mesh.run.rglob("*") if "hot" in each.name or "base" in each.name}
    assert [each.exists() for each in shared] == [False, False]


async def test_an_envoy_of_another_kind_is_followed_after_a_pause(
    mesh: SmallMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an upgrade may need. Calls that may go to another region do."""
    monkeypatch.setattr(hot_restart, "version", lambda: "another")
    await mesh.start(("eu", "beta"), ("us", "beta"), ("eu", "alpha"))
    load = Load(mesh.egress("eu", "alpha"), ANYWHERE)
    await load.more("eu", ANYWHERE)
    for _ in range(2):
        await mesh.sidecars["eu", "beta"].restart()
        await load.more("eu", ANYWHERE)
    assert await load.stop() == []
    seen = mesh.apps["eu"].seen["Plain"] + mesh.apps["us"].seen["Plain"]
    assert seen == load.sent["Plain"]


async def test_an_instance_goes_away_without_a_lost_call(mesh: SmallMesh) -> None:
    await mesh.start(("eu", "beta"), ("us", "beta"), ("eu", "alpha"))
    load = Load(mesh.egress("eu", "alpha"), ANYWHERE)
    await load.more("eu", ANYWHERE)
    await mesh.sidecars["eu", "beta"].pause()
    await mesh.apps["eu"].stop(grace=5.0)
    await mesh.sidecars["eu", "beta"].stop()
    await load.more("us", ANYWHERE)
    assert await load.stop() == []


async def test_a_stream_goes_on_while_its_instance_drains(mesh: SmallMesh) -> None:
    """It ends with the process, not before, and is opened again at once."""
    await mesh.start(("us", "beta"), ("eu", "beta"))
    channel = mesh.egress("eu", "beta", "beta.us")
    stream = aiter(channel.unary_stream(path("Follow"))(b""))
    assert await anext(stream) == b"us"
    await mesh.sidecars["us", "beta"].pause()
    for _ in range(10):
        assert await anext(stream) == b"us"
    await mesh.apps["us"].stop(grace=0.2)

    async def drained() -> None:
        async for _ in stream:
            pass

    code, _ = await asyncio.wait_for(status_of(drained()), 20)
    assert code != grpc.StatusCode.OK
    # Opened while there is nobody: it waits.
    again = aiter(channel.unary_stream(path("Follow"))(b""))
    first = asyncio.ensure_future(anext(again))
    await mesh.apps["us"].start()
    await mesh.sidecars["us", "beta"].resume()
    assert await asyncio.wait_for(first, 20) == b"us"
