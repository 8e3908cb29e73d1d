"""A client in a process of its own, which costs as little as it can: it sends bytes made before.

Run with its `Calls` as JSON; prints what it found as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

import grpc

from tests.bench.replication import contract, payload
from tests.bench.rows import percentile

_DRAWN = 4096


@dataclass(frozen=True)
class Calls:
    """What to call: `callers` at a time for so many seconds; `pack` things a message of a stream.

    `caller` is the SPIFFE identity to call as; `entities` is how many are written to.
    """

    socket: str
    caller: str
    method: str
    callers: int
    seconds: float
    entities: int
    pack: int = 1


async def call(given: Calls) -> dict[str, float]:
    """Calls; gives writes (or calls) a second, and percentiles of their latency in ms."""
    # As the sidecar would say who calls.
    metadata = (("x-forwarded-client-cert", f"URI={given.caller}"),)
    requests = _requests(given)
    async with grpc.aio.insecure_channel(f"unix:{given.socket}") as channel:
        path = f"/{contract.SERVICE}/{given.method}"
        streams = given.method == "WriteMany"
        invoke: Any = (channel.stream_stream if streams else channel.unary_unary)(path)
        work = _stream if streams else _unary
        for seconds in (min(0.5, given.seconds), given.seconds):  # first to warm up
            taken: list[float] = []
            started = time.perf_counter()
            until = started + seconds
            await asyncio.gather(
                *(work(invoke, metadata, requests, at, until, taken) for at in range(given.callers))
            )
            lasted = time.perf_counter() - started
    return {
        "rate": len(taken) * given.pack / lasted,
        "p50": percentile(taken, 50) * 1000,
        "p99": percentile(taken, 99) * 1000,
    }


def _requests(given: Calls) -> list[bytes]:
    if given.method == "Empty":
        return [b""]
    things = payload.whole("uniform", seed=7, entities=given.entities)[:_DRAWN]
    if given.method == "Write":
        request = contract.message_class("WriteRequest")
        return [request(thing=thing).SerializeToString() for thing in things]
    many = contract.message_class("WriteManyRequest")
    return [
        many(things=things[at : at + given.pack]).SerializeToString()
        for at in range(0, len(things), given.pack)
    ]


async def _unary(
    invoke: Any, metadata: Any, requests: list[bytes], at: int, until: float, taken: list[float]
) -> None:
    while (started := time.perf_counter()) < until:
        await invoke(requests[at % len(requests)], metadata=metadata)
        taken.append(time.perf_counter() - started)
        at += 64


async def _stream(
    invoke: Any, metadata: Any, requests: list[bytes], at: int, until: float, taken: list[float]
) -> None:
    """One stream, with two messages under way."""
    stream = invoke(metadata=metadata)
    sent: deque[float] = deque()
    while (now := time.perf_counter()) < until or sent:
        while now < until and len(sent) < 2:
            sent.append(time.perf_counter())
            await stream.write(requests[at % len(requests)])
            at += 7
        await stream.read()
        taken.append(time.perf_counter() - sent.popleft())
    await stream.done_writing()


if __name__ == "__main__":
    print(json.dumps(asyncio.run(call(Calls(**json.loads(sys.argv[1]))))))
