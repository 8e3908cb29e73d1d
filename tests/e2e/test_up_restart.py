"""A running mesh under load: a process is started again without a lost call, and killed with none
of an idempotent method lost."""

from __future__ import annotations

import asyncio
from collections import Counter

import grpc
import pytest

from mesh.cli.story.stage import Stage
from tests.e2e.control import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

ANYWHERE = "/isthmus.channels.v1.ChannelService/ListChannels"
HERE = "/isthmus.replication.v1.MembersService/List"  # LOCALITY_LOCAL, and never repeated


async def test_a_restart_under_load_loses_no_call(mesh_up: Stage) -> None:
    held = mesh_up.layout.operator
    credentials = grpc.ssl_channel_credentials(
        *((held / name).read_bytes() for name in ("trust.crt", "tls.key", "tls.crt"))
    )
    options = [("grpc.enable_retries", 0), ("grpc.ssl_target_name_override", "localhost")]
    address = str(mesh_up.topology.edge("eu"))
    answers: Counter[str] = Counter()
    failures: list[str] = []
    stopping = asyncio.Event()

    async def calling(channel: grpc.aio.Channel, path: str) -> None:
        while not stopping.is_set():
            try:
                await channel.unary_unary(path)(
                    b"", timeout=20, metadata=(("x-isthmus-workload", "channels"),)
                )
                answers[path] += 1
            except grpc.aio.AioRpcError as error:
                failures.append(f"{path}: {error.code().name}: {error.details()}")
            await asyncio.sleep(0.01)

    async def more(*paths: str) -> None:
        wanted = {path: answers[path] + 20 for path in paths}

        async def reached() -> bool:
            return all(answers[path] >= count for path, count in wanted.items())

        await eventually(reached, within=60)

    async with grpc.aio.secure_channel(address, credentials, options=options) as channel:
        calls = [asyncio.ensure_future(calling(channel, p)) for p in (ANYWHERE, HERE) * 2]
        try:
            await more(ANYWHERE, HERE)
            await mesh_up.control.ask(
                "workload-restart", region="eu", workload="channels", within=120
            )
            await more(ANYWHERE, HERE)
            # The only thing that can fail is what waits here: a busy machine starts a process later
            # than the three seconds that this method's deadline gives it.
            assert [each for each in failures if not each.startswith(f"{HERE}: DEADLINE")] == []
            await mesh_up.control.ask("workload-kill", region="eu", workload="channels")
            await more(ANYWHERE)
            assert not [each for each in failures if each.startswith(ANYWHERE)]
            await more(HERE)
        finally:
            stopping.set()
            await asyncio.gather(*calls)
