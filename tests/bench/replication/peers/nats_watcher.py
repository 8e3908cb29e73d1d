"""Watches the mirror in a process of its own: prints a line, then the lag of each message."""

from __future__ import annotations

import asyncio
import json
import sys

import nats
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from tests.bench.replication.pacing import lag


async def main(port: int, total: int) -> None:
    """Prints as JSON the lags in milliseconds of `total` messages."""
    client = await nats.connect(f"nats://127.0.0.1:{port}")
    lags: list[float] = []
    seen = asyncio.Event()

    async def note(message: Msg) -> None:
        lags.append(lag(message.data[:18]))
        if len(lags) == total:
            seen.set()

    await client.subscribe("seen", cb=note)
    await client.jetstream().add_consumer(
        "MIRROR",
        ConsumerConfig(
            deliver_subject="seen", ack_policy=AckPolicy.NONE, deliver_policy=DeliverPolicy.NEW
        ),
    )
    print("watching", flush=True)
    await seen.wait()
    print(json.dumps(lags), flush=True)
    await client.close()


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:])))
