"""Taps: each reader gets what it asked for, bounded, and what is left out is counted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from isthmus.mesh.v1 import sidecars_pb2, tap_pb2
from isthmus.mesh.v1.tap_pb2_grpc import (
    TapServiceServicer,
    TapServiceStub,
    add_TapServiceServicer_to_server,
)

from mesh.control.taps import HELD, MOST_TAPS, Tap, Taps, TooManyTaps
from mesh.xds.fleet import Instance

HERE = Instance("eu", "channels")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def calls(count: int, status: str = "OK") -> list[tap_pb2.TappedCall]:
    return [
        tap_pb2.TappedCall(path="/a.B/C", listener="edge", status=status, attempts=at)
        for at in range(count)
    ]


def everything(per_second: int = 2000, clock: Clock | None = None) -> Tap:
    return Tap(sidecars_pb2.TapFilter(), per_second, clock or Clock())


async def taken(tap: Tap) -> tuple[int, int]:
    """How many calls there are now, and how many were left out."""
    shown = left_out = 0
    while True:
        try:
            answer = await asyncio.wait_for(tap.take(), 0.05)
        except TimeoutError:
            return shown, left_out
        shown += len(answer.calls)
        left_out += answer.left_out


async def test_calls_come_in_their_order_and_filtered() -> None:
    tap = Tap(sidecars_pb2.TapFilter(failed=True), 0, Clock())
    tap.offer([*calls(3), *calls(2, "NOT_FOUND")], 0)
    answer = await tap.take()
    assert [(each.status, each.attempts) for each in answer.calls] == [
        ("NOT_FOUND", 0),
        ("NOT_FOUND", 1),
    ]


async def test_a_rate_leaves_out_and_counts() -> None:
    clock = Clock()
    tap = everything(10, clock)
    tap.offer(calls(25), 0)
    assert await taken(tap) == (10, 15)
    clock.now += 0.5
    tap.offer(calls(25), 3)
    assert await taken(tap) == (5, 23)
    assert (tap.shown, tap.left_out) == (15, 38)


async def test_a_reader_that_takes_nothing_holds_no_more_than_its_share() -> None:
    clock = Clock()
    tap = everything(2000, clock)
    for _ in range(5):
        clock.now += 1
        tap.offer(calls(1000), 0)
    assert await taken(tap) == (HELD, 5000 - HELD)


async def test_agents_hear_of_each_change_of_the_order() -> None:
    orders: list[sidecars_pb2.TapOrder | None] = []
    taps = Taps(lambda: orders.append(taps.order))
    first, second = everything(), Tap(sidecars_pb2.TapFilter(failed=True), 0, Clock())
    taps.open(first)
    taps.open(second)
    taps.close(first)
    taps.close(second)
    assert [None if each is None else len(each.filters) for each in orders] == [1, 2, 1, None]
    assert len({each.id for each in orders if each is not None}) == 3


async def test_only_so_many_tap_at_once() -> None:
    taps = Taps(lambda: None)
    for _ in range(MOST_TAPS):
        taps.open(everything())
    with pytest.raises(TooManyTaps):
        taps.open(everything())


async def test_it_is_known_who_is_listened_to() -> None:
    taps = Taps(lambda: None)
    taps.open(everything())
    order = taps.order
    assert order is not None
    waiting = asyncio.create_task(taps.joined(2, 0.2))
    await asyncio.sleep(0)
    taps.feed(HERE, tap_pb2.FeedRequest(id=order.id))
    assert await waiting == 1
    taps.gone(HERE, order.id)
    assert await taps.joined(1, 0.01) == 0


class Server(TapServiceServicer):
    """Writes what a tap has, as the control plane does."""

    def __init__(self, tap: Tap) -> None:
        self._tap = tap

    async def Tap(  # type: ignore[override] # the stubs know generators only
        self, request: tap_pb2.TapRequest, context: Any
    ) -> None:
        while True:
            await context.write(await self._tap.take())


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[tuple[Tap, grpc.aio.Channel]]:
    clock = Clock()
    tap = everything(2000, clock)
    server = grpc.aio.server()
    add_TapServiceServicer_to_server(Server(tap), server)
    server.add_insecure_port(f"unix:{tmp_path}/s")
    await server.start()
    async with grpc.aio.insecure_channel(f"unix:{tmp_path}/s") as channel:
        yield tap, channel
    await server.stop(None)


async def test_a_slow_reader_loses_lines_with_a_count_and_nobody_waits(
    served: tuple[Tap, grpc.aio.Channel],
) -> None:
    tap, channel = served
    clock = tap._clock
    assert isinstance(clock, Clock)
    stream = TapServiceStub(channel).Tap(tap_pb2.TapRequest())
    offered = 0
    long = tap_pb2.TappedCall(path="/a.B/C", listener="edge", traceparent="x" * 2000)
    for _ in range(40):  # 16 MB, which is more than a connection holds
        clock.now += 1
        tap.offer([long] * 200, 0)
        offered += 200
        await asyncio.sleep(0)
    shown = left_out = 0
    async for answer in stream:
        shown += len(answer.calls)
        left_out += answer.left_out
        if shown + left_out == offered:
            break
    stream.cancel()
    assert left_out > 0
    assert shown >= HELD
