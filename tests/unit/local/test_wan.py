"""The WAN's faults: delay, stall, cut and heal of directed links."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from unittest.mock import create_autospec

import pytest

from mesh.local.wan import HEALTHY, Fault, Wan
from mesh.local.wan_link import WINDOW, End
from mesh.topology import Address, Region, Topology
from tests.support.ports import free_blocks


@pytest.fixture
def topology(tmp_path: Path) -> Topology:
    eu, us = free_blocks(2)
    return Topology(
        path=tmp_path / "mesh.yaml",
        trust_domain="isthmus.test",
        regions=(Region("eu", "127.0.0.1", eu), Region("us", "127.0.0.1", us)),
        workloads=("channels",),
        devices=(),
        media_root=tmp_path,
        origin=Address("127.0.0.1", 1),
        otlp=None,
    )


@pytest.fixture
async def wan(topology: Topology) -> AsyncIterator[Wan]:
    wan = Wan(topology)
    await wan.start()
    yield wan
    await wan.close()


class Service:
    """The listener of `us`/channels: echoes, or sends what it is told to."""

    def __init__(self) -> None:
        self.connections = 0
        self.received = hashlib.sha256()
        self.count = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while data := await reader.read(65536):
                self.received.update(data)
                self.count += len(data)
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass  # a cut, which the tests see at their own end
        finally:
            writer.close()


@pytest.fixture
async def service(topology: Topology, wan: Wan) -> AsyncIterator[Service]:
    service = Service()
    at = topology.inbound("us", "channels")
    server = await asyncio.start_server(service, at.host, at.port)
    yield service
    server.close()
    await server.wait_closed()


async def dial(topology: Topology) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    at = topology.route("eu", "us", "channels")
    return await asyncio.open_connection(at.host, at.port)


async def round_trip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> float:
    loop = asyncio.get_running_loop()
    began = loop.time()
    writer.write(b"ping")
    assert await reader.readexactly(4) == b"ping"
    return loop.time() - began


async def test_carries_bytes_and_ends(topology: Topology, service: Service) -> None:
    reader, writer = await dial(topology)
    writer.write(b"hello")
    writer.write_eof()
    assert await reader.read() == b"hello"
    writer.close()
    await writer.wait_closed()


async def test_delay_holds_each_direction_on_its_own(
    topology: Topology, wan: Wan, service: Service
) -> None:
    reader, writer = await dial(topology)
    assert await round_trip(reader, writer) < 0.2
    wan.set_fault("eu", "us", Fault(delay=0.2))
    assert await round_trip(reader, writer) >= 0.2
    wan.set_fault("us", "eu", Fault(delay=0.2, jitter=0.01))
    assert await round_trip(reader, writer) >= 0.4
    wan.set_fault("eu", "us", HEALTHY)
    assert 0.2 <= await round_trip(reader, writer) < 0.4
    writer.close()


async def test_healing_a_delay_delivers_what_was_under_way_in_order(
    topology: Topology, wan: Wan, service: Service
) -> None:
    reader, writer = await dial(topology)
    wan.set_fault("eu", "us", Fault(delay=60))
    writer.write(b"first ")
    await until(lambda: wan.link("eu", "us").carried == 6)
    wan.set_fault("eu", "us", HEALTHY)
    writer.write(b"second")
    assert await reader.readexactly(12) == b"first second"
    writer.close()


async def test_stall_keeps_the_connection_and_loses_no_byte(
    topology: Topology, wan: Wan, service: Service
) -> None:
    reader, writer = await dial(topology)
    await round_trip(reader, writer)
    wan.set_fault("eu", "us", Fault(stall=True))
    block = bytes(range(256)) * 256
    sent = hashlib.sha256(b"ping")
    echoed = hashlib.sha256(b"ping")

    async def send() -> None:
        for _ in range(400):
            writer.write(block)
            sent.update(block)
            await writer.drain()
        writer.write_eof()

    async def receive() -> None:
        while data := await reader.read(65536):
            echoed.update(data)

    sender, receiver = asyncio.create_task(send()), asyncio.create_task(receive())
    # The sender is held back once the window is full: memory stays bounded.
    await until(lambda: wan.link("eu", "us").carried > WINDOW)
    carried = wan.link("eu", "us").carried
    assert carried <= WINDOW + 4 + (1 << 18)
    assert service.count == 4
    assert not sender.done()
    wan.set_fault("eu", "us", HEALTHY)
    await asyncio.wait_for(asyncio.gather(sender, receiver), 20)
    assert service.received.digest() == sent.digest() == echoed.digest()
    assert service.connections == 1
    writer.close()


async def test_stall_is_directed(topology: Topology, wan: Wan) -> None:
    accepted: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await accepted.put((reader, writer))

    at = topology.inbound("us", "channels")
    server = await asyncio.start_server(take, at.host, at.port)
    reader, writer = await dial(topology)
    far_reader, far_writer = await accepted.get()
    wan.set_fault("us", "eu", Fault(stall=True))
    far_writer.write(b"never")
    writer.write(b"passes")
    assert await far_reader.readexactly(6) == b"passes"
    await until(lambda: wan.link("us", "eu").carried == 5)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.read(1), 0.1)
    wan.set_fault("us", "eu", HEALTHY)
    assert await reader.readexactly(5) == b"never"
    for each in (writer, far_writer):
        each.close()
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize("link", [("eu", "us"), ("us", "eu")])
async def test_cut_resets_connections_old_and_new(
    topology: Topology, wan: Wan, service: Service, link: tuple[str, str]
) -> None:
    reader, writer = await dial(topology)
    await round_trip(reader, writer)
    wan.set_fault(*link, Fault(cut=True))
    with pytest.raises(ConnectionResetError):
        await reader.readexactly(1)
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        again, more = await dial(topology)
        more.write(b"x")
        await again.readexactly(1)
    assert service.connections == 1
    wan.set_fault(*link, HEALTHY)
    reader, writer = await dial(topology)
    await round_trip(reader, writer)
    writer.close()


async def test_a_dead_target_resets(topology: Topology, wan: Wan) -> None:
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        reader, _ = await dial(topology)
        await reader.readexactly(1)


async def test_a_reset_of_one_end_reaches_the_other(topology: Topology, wan: Wan) -> None:
    over = asyncio.Event()

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        connection: socket.socket = writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        writer.transport.abort()
        over.set()

    at = topology.inbound("us", "channels")
    server = await asyncio.start_server(refuse, at.host, at.port)
    reader, writer = await dial(topology)
    writer.write(b"x")
    await over.wait()
    with pytest.raises(ConnectionResetError):
        await reader.readexactly(1)
    await until(lambda: wan.link("eu", "us").streams == 0 == wan.link("us", "eu").streams)
    server.close()
    await server.wait_closed()


async def test_an_unknown_link_is_named(wan: Wan) -> None:
    with pytest.raises(KeyError, match="no link eu->mars: there are eu->us, us->eu"):
        wan.set_fault("eu", "mars", HEALTHY)


async def until(condition, seconds: float = 5.0) -> None:  # type: ignore[no-untyped-def]  # any thunk
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


def test_the_end_of_a_stream_finds_its_receiver_gone() -> None:
    # Its peer reset the connection, and asyncio has not noticed yet.
    transport = create_autospec(asyncio.Transport, instance=True)
    transport.write_eof.side_effect = OSError(errno.ENOTCONN, "not connected")
    end = End()
    end.connection_made(transport)
    end.write_eof()
    transport.write_eof.assert_called_once_with()
