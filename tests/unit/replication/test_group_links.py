"""Real groups over real gRPC on Unix sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
from isthmus.channels.v1 import channel_pb2
from isthmus.replication.v1 import feed_pb2_grpc, link_pb2_grpc

from mesh.contracts.model import Contract, Entity, Field, Location, Merge
from mesh.replication import (
    FeedServicer,
    Group,
    LinkServicer,
    WriteContext,
)

Channel = channel_pb2.Channel
HERE = Location("channel.proto", 1)
ALICE = WriteContext(actor="operator/alice")


def _field(name: str, number: int, merge: Merge, *order_by: str) -> Field:
    return Field(name, number, (number,), merge, order_by)


CONTRACT = Contract(
    services={},
    entities={
        "isthmus.channels.v1.Channel": Entity(
            "isthmus.channels.v1.Channel",
            "channels",
            "channel_id",
            1,
            True,
            (
                _field("title", 2, Merge.LATEST),
                _field("assignment", 8, Merge.MAX, "epoch", "region"),
                _field("takeovers", 9, Merge.COUNTER),
                _field("labels", 10, Merge.SET),
            ),
            HERE,
        )
    },
)


class Region:
    def __init__(self, name: str, root: Path, peers: tuple[str, ...]) -> None:
        self.name = name
        self.root = root
        self.peers = peers
        self.starts = 0

    async def start(self) -> None:
        self.group = await Group.open(
            CONTRACT,
            "channels",
            region=self.name,
            peers=self.peers,
            folder=self.root / self.name,
            lost_after=1.5,
        )
        self.server = grpc.aio.server()
        region_of: Callable[[grpc.ServicerContext], str] = lambda context: dict(  # noqa: E731
            context.invocation_metadata()
        )["peer"]
        link_pb2_grpc.add_LinkServiceServicer_to_server(
            LinkServicer(self.group, region_of), self.server
        )
        feed_pb2_grpc.add_FeedServiceServicer_to_server(FeedServicer(self.group), self.server)
        # A socket of its own for each start: gRPC removes it whenever the server is collected.
        self.starts += 1
        socket = self.root / f"{self.name}-{self.starts}.sock"
        self.server.add_insecure_port(f"unix:{socket}")
        await self.server.start()
        link = self.root / f"{self.name}.sock"
        link.unlink(missing_ok=True)
        link.symlink_to(socket)
        self.group.connect(self.dial)

    def dial(self, peer: str) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(
            f"unix:{self.root / peer}.sock",
            options=[("grpc.max_reconnect_backoff_ms", 200)],
            interceptors=[_Named(self.name)],
        )

    async def stop(self) -> None:
        await self.server.stop(0)
        await self.group.close()

    async def title(self, key: str, title: str) -> None:
        def change(tx):
            message = Channel(channel_id=key, title=title)
            if tx.get(Channel, key) is None:
                tx.create(message)
            else:
                tx.set(message, "title")
            return message

        await self.group.write(change, ALICE)


class _Named(grpc.aio.StreamStreamClientInterceptor):
    def __init__(self, name: str) -> None:
        self._name = name

    async def intercept_stream_stream(self, continuation, details, requests):
        metadata = grpc.aio.Metadata(("peer", self._name))
        return await continuation(details._replace(metadata=metadata), requests)


async def until(condition: Callable[[], bool], seconds: float = 15) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


@asynccontextmanager
async def regions(root: Path, *names: str) -> AsyncIterator[list[Region]]:
    started: list[Region] = []
    try:
        for name in names:
            region = Region(name, root, tuple(n for n in names if n != name))
            await region.start()
            started.append(region)
        yield started
    finally:
        for region in started:
            await region.stop()


def equal(*found: Region) -> bool:
    first = found[0].group.journal
    return all(
        r.group.journal.vector == first.vector and r.group.journal.digest() == first.digest()
        for r in found
    )


async def test_two_regions_replicate(tmp_path: Path) -> None:
    async with regions(tmp_path, "eu", "us") as (eu, us):
        await asyncio.gather(eu.title("c1", "one"), us.title("c2", "two"))
        await until(lambda: equal(eu, us))
        assert [c.channel_id for c in eu.group.list(Channel)] == ["c1", "c2"]
        assert us.group.get(Channel, "c1").title == "one"


async def test_a_region_that_restarts_resumes(tmp_path: Path) -> None:
    async with regions(tmp_path, "eu", "us") as (eu, us):
        await eu.title("c1", "one")
        await until(lambda: equal(eu, us))
        await us.stop()
        await eu.title("c1", "two")
        await us.start()
        await us.title("c1", "three")
        await until(lambda: equal(eu, us))
        assert eu.group.get(Channel, "c1").title == "three"
