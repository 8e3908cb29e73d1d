"""A process of simulated sidecars: ``python -m tests.bench.mesh.clients SOCKET COUNT``.

Each has a stream of its own, asks for what a sidecar asks for, and acknowledges whatever comes. It
keeps nothing: what is measured is the server. The names that are asked for one by one come on the
standard input as JSON, by type.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from typing import Any

import grpc

from mesh.envoy.encode import tagged
from mesh.xds import wire
from mesh.xds.kinds import CLUSTER, LISTENER

_PER_CHANNEL = 50
_NODE = tagged(1, tagged(1, b"front"))
"""Who asks: each stream's first request says it."""


async def main(socket: str, count: int, named: dict[str, list[str]]) -> None:
    """Runs until it is killed."""
    requests = [_NODE + _request(CLUSTER)]
    requests += [_request(type_url, names) for type_url, names in named.items()]
    requests.insert(2, _request(LISTENER))
    options = [
        ("grpc.max_receive_message_length", -1),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    async with asyncio.TaskGroup() as group:
        for first in range(0, count, _PER_CHANNEL):
            channel = grpc.aio.insecure_channel(f"unix:{socket}", options=options)
            for _ in range(min(_PER_CHANNEL, count - first)):
                group.create_task(_sidecar(channel, requests))


async def _sidecar(channel: grpc.aio.Channel, requests: list[bytes]) -> None:
    stream: Any = channel.stream_stream(f"/{wire.SERVICE}/{wire.DELTA_METHOD}")()
    for request in requests:
        await stream.write(request)
    while (data := await stream.read()) is not grpc.aio.EOF:
        fields = dict(_fields(data))
        await stream.write(tagged(2, fields[4]) + tagged(6, fields[5]))


def _request(type_url: str, names: list[str] | None = None) -> bytes:
    subscribed = b"".join([tagged(3, name.encode()) for name in names or []])
    return tagged(2, type_url.encode()) + subscribed


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The fields of a message that has none but length-delimited ones."""
    at = 0
    while at < len(data):
        number, at = data[at] >> 3, at + 1
        length = shift = 0
        while True:
            byte, at = data[at], at + 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        yield number, data[at : at + length]
        at += length


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), json.loads(sys.stdin.readline())))
