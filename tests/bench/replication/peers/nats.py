"""NATS JetStream: a stream in one server, its mirror in another, joined as leaf nodes."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import nats
from nats.js.api import ExternalStream, StorageType, StreamConfig, StreamSource
from nats.js.client import JetStreamContext

from tests.bench.replication import pacing, payload
from tests.bench.replication.contract import FIELDS
from tests.bench.replication.peers import debs

DURABILITY = "file storage, fsynced by a timer: not before it acknowledges; no merge"
SUBJECT = "changes"
_WINDOW = 200_000
_START_SECONDS = 20.0


@dataclass
class Mirror:
    """Two servers: `source` and `target` talk to JetStream in each; `port` is the source's."""

    port: int
    target_port: int
    source: JetStreamContext
    target: JetStreamContext

    async def mirrored(self) -> int:
        """How many messages the mirror has stored, the first of `running` included."""
        return (await self.target.stream_info("MIRROR")).state.last_seq


def _ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    return ports


@asynccontextmanager
async def running() -> AsyncIterator[Mirror]:
    """Two empty servers, eu and us; us mirrors. Raises `NoPeers`."""
    server = debs.ensure() / "usr" / "sbin" / "nats-server"
    root = Path(tempfile.mkdtemp(prefix="ist-nats-"))
    port, target_port, leaf = _ports(3)
    configs = {
        "eu": f"port: {port}\nleafnodes {{ host: 127.0.0.1, port: {leaf} }}\n",
        "us": f"port: {target_port}\n"
        f'leafnodes {{ remotes: [{{ url: "nats://127.0.0.1:{leaf}" }}] }}\n',
    }
    processes = []
    clients = []
    try:
        for name, text in configs.items():
            config = root / f"{name}.conf"
            config.write_text(
                f"server_name: {name}\nhost: 127.0.0.1\n{text}"
                f'jetstream {{ store_dir: "{root / name}", domain: {name}, max_file: 100G }}\n'
            )
            with (root / f"{name}.log").open("wb") as log:
                processes.append(
                    await asyncio.create_subprocess_exec(
                        *debs.DIES_WITH_US,
                        server,
                        "-c",
                        config,
                        stdout=log,
                        stderr=log,
                        env=debs.environment(),
                    )
                )
        for at in (port, target_port):
            clients.append(await _connect(at))
        source, target = (client.jetstream() for client in clients)
        await source.add_stream(
            StreamConfig("CHANGES", subjects=[SUBJECT], storage=StorageType.FILE)
        )
        await target.add_stream(
            StreamConfig(
                "MIRROR",
                storage=StorageType.FILE,
                mirror=StreamSource("CHANGES", external=ExternalStream("$JS.eu.API")),
            )
        )
        mirror = Mirror(port, target_port, source, target)
        # A mirror takes seconds to begin.
        await source.publish(SUBJECT, b"first")
        while await mirror.mirrored() < 1:
            await asyncio.sleep(0.05)
        yield mirror
    finally:
        for client in clients:
            await client.close()
        for process in processes:
            process.terminate()
            await process.wait()
        shutil.rmtree(root)


async def _connect(port: int) -> nats.aio.client.Client:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return await nats.connect(f"nats://127.0.0.1:{port}", allow_reconnect=False)
        except OSError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.05)


async def measure(frame: int, seconds: float) -> dict[str, float]:
    """Changes a second until the mirror has stored them, with `frame` of them in a message.

    The publisher costs next to nothing: it sends bytes made beforehand and asks for no
    acknowledgement of single messages.
    """
    things = payload.whole("uniform", seed=7)
    encoded = [thing.SerializeToString() for thing in things]
    messages = [b"".join(encoded[at : at + frame]) for at in range(0, len(encoded), frame)]
    wire = [b"PUB %s %d\r\n%s\r\n" % (SUBJECT.encode(), len(each), each) for each in messages]
    step = max(1, 512 // frame)
    chunks = [b"".join(wire[at : at + step]) for at in range(0, len(wire), step)]
    async with running() as mirror:
        reader, writer = await asyncio.open_connection("127.0.0.1", mirror.port)
        await reader.readline()  # its INFO
        writer.write(b'CONNECT {"verbose":false,"pedantic":false}\r\n')
        sent = stored = 0
        started = asked = time.monotonic()
        until = started + seconds
        while (now := time.monotonic()) < until or stored < sent:
            if now < until and (sent - stored) * frame < _WINDOW:
                writer.write(chunks[sent // step % len(chunks)])
                sent += step
                await writer.drain()
            if now - asked > 0.02 or now >= until or (sent - stored) * frame >= _WINDOW:
                asked = now
                stored = await mirror.mirrored() - 1
                await asyncio.sleep(0.002)
        lasted = time.monotonic() - started
        writer.close()
    return {"rate": sent * frame / lasted}


async def lags(rate: int, total: int) -> list[float]:
    """Milliseconds from publishing each of `total` changes until a client of the mirror has it."""
    padding = b"x" * (payload.VALUE_BYTES * len(FIELDS))
    async with running() as mirror:
        watcher = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.bench.replication.peers.nats_watcher",
            str(mirror.target_port),
            str(total),
            stdout=asyncio.subprocess.PIPE,
            limit=1 << 24,
        )
        assert watcher.stdout is not None
        await watcher.stdout.readline()
        reader, writer = await asyncio.open_connection("127.0.0.1", mirror.port)
        await reader.readline()  # its INFO
        writer.write(b'CONNECT {"verbose":false,"pedantic":false}\r\n')

        def send(_: int) -> None:
            data = pacing.now().encode() + padding
            writer.write(b"PUB %s %d\r\n%s\r\n" % (SUBJECT.encode(), len(data), data))

        await pacing.paced(rate, total, send)
        async with asyncio.timeout(60):
            found: list[float] = json.loads(await watcher.stdout.readline())
        await watcher.wait()
        writer.close()
    return found
