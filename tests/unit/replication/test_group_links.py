"""Real groups over real gRPC on Unix sockets."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import grpc
import pytest
from google.protobuf.message import Message
from isthmus.channels.v1 import channel_pb2
from isthmus.replication.v1 import feed_pb2_grpc, link_pb2_grpc

from mesh.contracts.model import Contract
from mesh.replication import (
    Batch,
    FeedServicer,
    Group,
    LinkServicer,
    Snapshot,
    Transaction,
    WriteContext,
    follow_feed,
)
from mesh.replication.core.parked import KNOWN
from mesh.replication.errors import RightsShort
from mesh.replication.schema import generated_class
from tests.support.merging import CONTRACT, THING, Thing
from tests.support.regions import contract
from tests.support.signing import MemorySigning

Channel = channel_pb2.Channel
FIRST_OPERATOR = WriteContext(actor="operator/first")


class Region:
    def __init__(
        self, name: str, root: Path, peers: tuple[str, ...], of: Contract | None = None
    ) -> None:
        self.name = name
        self.contract = of or contract()
        self.root = root
        self.peers = peers
        self.known = KNOWN
        self.starts = 0
        self.cut_off: set[str] = set()
        self.signing: MemorySigning | None = MemorySigning(name)

    async def start(self) -> None:
        self.group = await Group.open(
            self.contract,
            *self.contract.group_digests,
            region=self.name,
            peers=self.peers,
            folder=self.root / self.name,
            lost_after=1.5,
            class_of=self.class_of,
            known=self.known,
            signing=self.signing,
        )
        self.starts += 1
        self.servers = [await self._serve(who) for who in (*self.peers, "feeds")]
        self.group.connect(self.dial)

    def class_of(self, name: str) -> type[Message]:
        return Thing if name == THING else generated_class(name)

    async def _serve(self, who: str) -> grpc.aio.Server:
        """A server for one caller, who is known by the socket."""
        server = grpc.aio.server()
        link_pb2_grpc.add_LinkServiceServicer_to_server(
            LinkServicer(self.group, lambda _: who), server
        )
        feed_pb2_grpc.add_FeedServiceServicer_to_server(FeedServicer(self.group), server)
        # A socket of its own for each start: gRPC removes it whenever the server is collected.
        socket = self.root / f"{self.name}-{self.starts}-{who}.sock"
        server.add_insecure_port(f"unix:{socket}")
        await server.start()
        link = self.root / f"{self.name}-for-{who}.sock"
        link.unlink(missing_ok=True)
        link.symlink_to(socket)
        return server

    def dial(self, peer: str) -> grpc.aio.Channel:
        whom = "nobody" if peer in self.cut_off else f"{peer}-for-{self.name}"
        return grpc.aio.insecure_channel(
            f"unix:{self.root / whom}.sock", options=[("grpc.max_reconnect_backoff_ms", 200)]
        )

    async def stop(self) -> None:
        await asyncio.gather(*(server.stop(0) for server in self.servers))
        await self.group.close()

    async def title(self, key: str, title: str) -> None:
        def change(tx):
            message = Channel(channel_id=key, title=title)
            if tx.get(Channel, key) is None:
                tx.create(message)
            else:
                tx.set(message, "title")
            return message

        await self.group.write(change, FIRST_OPERATOR)


async def until(condition: Callable[[], bool], seconds: float = 15) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # the condition spans processes and sockets
            await asyncio.sleep(0.02)


@asynccontextmanager
async def regions(
    root: Path, *names: str, of: Contract | None = None
) -> AsyncIterator[list[Region]]:
    started: list[Region] = []
    try:
        for name in names:
            region = Region(name, root, tuple(n for n in names if n != name), of)
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


async def test_rights_that_run_short_are_asked_for_and_handed_over(tmp_path: Path) -> None:
    async with regions(tmp_path, "eu", "us", of=CONTRACT) as (eu, us):

        async def change(region: Region, act: Callable[[Transaction], object]) -> None:
            await region.group.write(lambda tx: (act(tx), Thing())[1], FIRST_OPERATOR)

        def stock(region: Region) -> int:
            found = region.group.get(Thing, "t")
            return -1 if found is None else found.stock

        await change(eu, lambda tx: tx.create(Thing(id="t", stock=5)))
        await until(lambda: stock(us) == 5 and us.group.reach()["eu"].reachable)
        with pytest.raises(RightsShort):
            await change(us, lambda tx: tx.increment(Thing, "t", "stock", -3))
        async with asyncio.timeout(15):
            while True:
                with suppress(RightsShort):
                    await change(us, lambda tx: tx.increment(Thing, "t", "stock", -3))
                    break
                await asyncio.sleep(0.05)  # until the request and the answer have gone their way
        await until(lambda: stock(eu) == stock(us) == 2)
        with pytest.raises(RightsShort) as short:
            await change(us, lambda tx: tx.increment(Thing, "t", "stock", -3))
        assert (short.value.here, short.value.elsewhere) == (0, {"eu": 2})


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


async def test_a_lost_region_is_noticed_relayed_and_heard_again(tmp_path: Path) -> None:
    async with regions(tmp_path, "ap", "eu", "us") as (ap, eu, us):
        await until(lambda: all(r.reachable for r in ap.group.reach().values()))
        await eu.stop()
        await until(lambda: not ap.group.reach()["eu"].reachable)
        assert ap.group.reach()["us"].reachable
        await us.title("c1", "without eu")
        await until(lambda: equal(ap, us))
        await eu.start()
        await until(lambda: equal(ap, eu, us))
        await until(lambda: ap.group.reach()["eu"].reachable)


async def test_a_region_that_only_another_hears_is_reachable(tmp_path: Path) -> None:
    names = ("ap", "eu", "us")
    ap, eu, us = (Region(name, tmp_path, tuple(n for n in names if n != name)) for name in names)
    eu.cut_off, us.cut_off = {"us"}, {"eu"}
    await asyncio.gather(ap.start(), eu.start(), us.start())
    try:
        await until(lambda: all(r.reachable for r in eu.group.reach().values()))
        await us.title("c1", "by way of ap")
        await until(lambda: equal(ap, eu, us))
        (link,) = (link for link in eu.group.status().links if link.peer == "us")
        assert not link.connected and eu.group.presence.silence_ms("us") is None
        await us.stop()
        await until(lambda: not eu.group.reach()["us"].reachable)
        await us.start()
        await until(lambda: eu.group.reach()["us"].reachable)
    finally:
        await asyncio.gather(*(region.stop() for region in (ap, eu, us)))


async def test_streams_are_renewed_before_they_grow_old(tmp_path: Path) -> None:
    async with regions(tmp_path, "eu", "us") as (eu, us):
        await until(lambda: all(link.connected for link in us.group.status().links))
        (first,) = us.group._links._followers["eu"]._streams
        us.group.link_max_age = 0.5
        # The age is drawn when a stream begins to be watched: begin anew.
        await first.stop()
        await until(lambda: us.group.status().links[0].connected)
        second, *_ = us.group._links._followers["eu"]._streams  # the third may have begun
        for number in range(20):
            await eu.title("c1", f"t{number}")
            await asyncio.sleep(0.05)
            assert us.group.status().links[0].connected
        await until(lambda: equal(eu, us))
        assert second.task.done()


async def test_a_feed_shows_what_the_group_shows(tmp_path: Path) -> None:
    async with regions(tmp_path, "eu") as (eu,):
        await eu.title("c1", "one")
        async with grpc.aio.insecure_channel(
            f"unix:{tmp_path}/eu-for-feeds.sock", options=[("grpc.max_reconnect_backoff_ms", 200)]
        ) as channel:
            events = follow_feed(channel, [Channel])
            first = await anext(events)
            assert isinstance(first, Snapshot)
            assert [view.message.title for view in first.entities] == ["one"]
            assert first.reach["eu"].reachable and first.vector
            await eu.title("c1", "two")
            changed = await anext(events)
            assert isinstance(changed, Batch)
            (change,) = changed.changes
            assert (change.old.message.title, change.new.message.title) == ("one", "two")
            assert change.new.last_change.actor == "operator/first"
            await eu.stop()
            await eu.start()
            again = await anext(events)
            assert isinstance(again, Snapshot)
            assert [view.message.title for view in again.entities] == ["two"]
            await events.aclose()


async def test_a_stranger_is_told_why_it_cannot_link(tmp_path: Path) -> None:
    async with regions(tmp_path, "eu", "us") as (eu, us):
        await until(lambda: eu.group.status().links[0].connected)
        us.group.name = "devices"
        for stream in us.group._links._followers["eu"]._streams.copy():
            await stream.stop()
        await until(lambda: "speaks of group" in us.group.status().links[0].last_error)
        assert not us.group.status().links[0].connected


async def test_what_applies_in_another_region_is_reported_with_its_traces(tmp_path: Path) -> None:
    applied = []
    async with regions(tmp_path, "eu", "us") as (eu, us):
        us.group._on_applied = applied.append
        trace = "00-" + "1" * 32 + "-" + "2" * 16 + "-01"

        def change(tx):
            tx.create(Channel(channel_id="c1"))
            return Channel()

        await eu.group.write(change, WriteContext("operator/first", trace))
        await until(lambda: equal(eu, us))
        (frame,) = applied
        assert frame.trace_parents == (trace,)
        assert (frame.origin.region, frame.first, frame.last) == ("eu", 1, 1)


class _Resets(link_pb2_grpc.LinkServiceServicer):
    """Ends every stream at once, as a sidecar does whose service is down."""

    def __init__(self) -> None:
        self.calls = 0

    async def Follow(self, request_iterator, context):
        self.calls += 1
        await context.abort(grpc.StatusCode.UNAVAILABLE, "connection failure")


async def test_streams_that_end_at_once_leave_no_task_behind(tmp_path):
    told: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: told.append(what["message"]))
    peer, server = _Resets(), grpc.aio.server()
    link_pb2_grpc.add_LinkServiceServicer_to_server(peer, server)
    server.add_insecure_port(f"unix:{tmp_path}/us.sock")
    await server.start()
    group = await Group.open(
        contract(), "channels", region="eu", peers=("us",), folder=tmp_path / "eu", lost_after=1.5
    )
    try:
        group.connect(lambda name: grpc.aio.insecure_channel(f"unix:{tmp_path / name}.sock"))
        await until(lambda: peer.calls >= 4)
    finally:
        await group.close()
        await server.stop(0)
    gc.collect()
    assert told == []
