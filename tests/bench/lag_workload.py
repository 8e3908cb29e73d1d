"""The workload `channels` of the lag benchmark: eu writes at a rate, us notes when it sees."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path

from isthmus.channels.v1.channel_pb2 import Channel

from mesh.replication import Batch, Transaction
from mesh.runtime import Host, own_context, run

RATE = int(os.environ["ISTHMUS_BENCH_RATE"])
TOTAL = RATE * int(os.environ["ISTHMUS_BENCH_SECONDS"])
OUT = Path(os.environ["ISTHMUS_BENCH_OUT"])
_TICK = 0.005


async def write(host: Host) -> None:
    """Writes `TOTAL` changes, each a write of its own, once the peer is there."""
    while not host.group.reach()["us"].reachable:
        await asyncio.sleep(0.05)
    await asyncio.sleep(2)  # lets the peers' start be over: only its tail would be measured
    started = time.perf_counter()
    pending: set[asyncio.Task[Channel]] = set()
    written = 0
    while written < TOTAL:
        due = min(TOTAL, int((time.perf_counter() - started) * RATE))
        for number in range(written, due):
            pending.add(asyncio.create_task(_write(host, number)))
        written = due
        pending = {task for task in pending if not task.done()}
        await asyncio.sleep(_TICK)
    await asyncio.gather(*pending)
    await asyncio.Event().wait()


async def _write(host: Host, number: int) -> Channel:
    channel = Channel(channel_id=f"channel-{number}", title=str(time.time_ns()))

    def change(transaction: Transaction) -> Channel:
        transaction.create(channel)
        return channel

    return await host.group.write(change, own_context(host.actor))


async def note(host: Host) -> None:
    """Collects the lag of each change in milliseconds; writes the file when all came."""
    lags: list[float] = []
    async for event in host.group.watch([Channel]):
        now = time.time_ns()
        if isinstance(event, Batch):
            for change in event.changes:
                channel = Channel.FromString(change.new.value)
                lags.append((now - int(channel.title)) / 1e6)
        if len(lags) == TOTAL:
            draft = OUT.with_suffix(".new")
            draft.write_text(json.dumps(lags))
            draft.rename(OUT)


async def build(host: Host) -> None:
    """Region eu writes; every other notes."""
    host.background("bench", write(host) if host.region == "eu" else note(host))


if __name__ == "__main__":
    run("channels", build)
