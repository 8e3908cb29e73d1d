"""A running mesh under load: a process or a sidecar is started again without a lost call, and a
process is killed with none of an idempotent method lost."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest

from mesh.cli.story.stage import Stage
from mesh.local.record import read
from mesh.place import EDGE
from tests.e2e.control import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

ANYWHERE = "/isthmus.channels.v1.ChannelService/ListChannels"
HERE = "/isthmus.replication.v1.MembersService/List"  # LOCALITY_LOCAL, and never repeated


class Load:
    """Operators at the edge of `eu` who call both methods, each again and again."""

    def __init__(self) -> None:
        self.failures: list[str] = []
        self._answers: Counter[str] = Counter()

    async def more(self, *paths: str) -> None:
        """Waits until each of these was answered twenty times more."""
        wanted = {path: self._answers[path] + 20 for path in paths}

        async def reached() -> bool:
            return all(self._answers[path] >= count for path, count in wanted.items())

        await eventually(reached, within=60)

    async def call(self, channel: grpc.aio.Channel, path: str, stopping: asyncio.Event) -> None:
        """One operator, until it shall stop."""
        while not stopping.is_set():
            try:
                await channel.unary_unary(path)(
                    b"", timeout=20, metadata=(("x-isthmus-workload", "channels"),)
                )
                self._answers[path] += 1
            except grpc.aio.AioRpcError as error:
                self.failures.append(f"{path}: {error.code().name}: {error.details()}")
            await asyncio.sleep(0.01)


@asynccontextmanager
async def loaded(mesh: Stage) -> AsyncIterator[Load]:
    held = mesh.layout.operator
    credentials = grpc.ssl_channel_credentials(
        *((held / name).read_bytes() for name in ("trust.crt", "tls.key", "tls.crt"))
    )
    options = [("grpc.enable_retries", 0), ("grpc.ssl_target_name_override", "localhost")]
    address = str(mesh.topology.edge("eu"))
    stopping = asyncio.Event()
    load = Load()
    async with grpc.aio.secure_channel(address, credentials, options=options) as channel:
        paths = (ANYWHERE, HERE) * 2
        calls = [asyncio.ensure_future(load.call(channel, path, stopping)) for path in paths]
        try:
            await load.more(ANYWHERE, HERE)
            yield load
        finally:
            stopping.set()
            await asyncio.gather(*calls)


async def test_a_restart_under_load_loses_no_call(mesh_up: Stage) -> None:
    async with loaded(mesh_up) as load:
        await mesh_up.control.ask("workload-restart", region="eu", workload="channels", within=120)
        await load.more(ANYWHERE, HERE)
        # The only thing that can fail is what waits here: a busy machine starts a process later
        # than the three seconds that this method's deadline gives it.
        assert [each for each in load.failures if not each.startswith(f"{HERE}: DEADLINE")] == []
        await mesh_up.control.ask("workload-kill", region="eu", workload="channels")
        await load.more(ANYWHERE)
        assert not [each for each in load.failures if each.startswith(ANYWHERE)]
        await load.more(HERE)


async def test_sidecars_are_followed_by_others_without_a_lost_call(mesh_up: Stage) -> None:
    """The edge that the calls come by, and the sidecar that they come to."""
    names = (f"eu/{EDGE}", "eu/channels/sidecar")

    def pids() -> list[int | None]:
        record = read(mesh_up.layout.record)
        assert record is not None
        return [each.pid for name in names for each in record.processes if each.name == name]

    async with loaded(mesh_up) as load:
        before = pids()
        await mesh_up.control.ask("workload-restart", region="eu", workload=EDGE, within=120)
        await load.more(ANYWHERE, HERE)
        await mesh_up.control.ask(
            "workload-restart", region="eu", workload="channels", sidecar=True, within=120
        )
        await load.more(ANYWHERE, HERE)
        assert [each for each in load.failures if not each.startswith(f"{HERE}: DEADLINE")] == []
        assert not set(before) & set(pids())
