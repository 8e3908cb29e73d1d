"""What browsers and scripts send to an edge: HTTP/1.1 and HTTP/2 by hand, with TLS."""

from __future__ import annotations

import asyncio
import ssl
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import h2.config
import h2.connection
import h2.events

from mesh.identity import authority
from mesh.identity.spiffe import Identity
from tests.e2e.sidecars import SmallMesh


@dataclass(frozen=True)
class Answer:
    """A response of HTTP/1.1, its header's names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Connection:
    """A TLS connection to an edge."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def request(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> Answer:
        """One request of HTTP/1.1 and its answer."""
        lines = [f"{method} {path} HTTP/1.1", "host: edge"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        if body or method in ("POST", "PUT", "PATCH"):
            lines.append(f"content-length: {len(body)}")
        self.writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        return await self.answer()

    async def answer(self) -> Answer:
        """The next answer."""
        async with asyncio.timeout(20):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            first, *rest = head.strip().split("\r\n")
            headers = {n.lower(): v.strip() for n, _, v in (line.partition(":") for line in rest)}
            body = b""
            if headers.get("transfer-encoding") == "chunked":
                while size := int((await self.reader.readuntil(b"\r\n")).strip(), 16):
                    body += await self.reader.readexactly(size)
                    await self.reader.readexactly(2)
                await self.reader.readexactly(2)
            elif "content-length" in headers:
                body = await self.reader.readexactly(int(headers["content-length"]))
        return Answer(int(first.split()[1]), headers, body)

    async def ended(self) -> bytes:
        """What still comes before the other side ends the connection."""
        try:
            return await self.reader.read()
        except (ConnectionResetError, ssl.SSLError):
            return b""


@asynccontextmanager
async def connected(
    mesh: SmallMesh, identity: Identity | None = None, *, region: str = "eu", alpn: str = "http/1.1"
) -> AsyncIterator[Connection]:
    """A connection to a region's edge, with or without a certificate."""
    context = ssl.create_default_context(cadata=authority.pem(mesh.root.certificate).decode())
    context.set_alpn_protocols([alpn])
    if identity is not None:
        with tempfile.TemporaryDirectory() as folder:
            held, path = mesh.credentials(identity), Path(folder) / "both.pem"
            path.write_bytes(held.key_pem + held.chain_pem)
            context.load_cert_chain(path)
    address = mesh.topology.edge(region)
    reader, writer = await asyncio.open_connection(
        address.host, address.port, ssl=context, server_hostname="localhost"
    )
    try:
        yield Connection(reader, writer)
    finally:
        writer.close()


class Http2:
    """HTTP/2 without the manners of a client library: as many streams as its user wants."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._state = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self._state.initiate_connection()

    async def settled(self) -> int:
        """Exchanges settings; how many streams the other side allows at once."""
        while True:
            for event in await self.events():
                if isinstance(event, h2.events.RemoteSettingsChanged):
                    return self._state.remote_settings.max_concurrent_streams

    async def answered(self) -> None:
        """Sends a ping and waits for its answer: what was sent before has been read."""
        self._state.ping(b"answered")
        while not any(isinstance(e, h2.events.PingAckReceived) for e in await self.events()):
            pass

    def open(self, headers: Mapping[str, str], *, last: bool = False) -> int:
        """Begins a request, allowed or not; returns its stream's number."""
        # The limit is the other side's to enforce.
        self._state.remote_settings.max_concurrent_streams = 1 << 20
        self._state.remote_settings.acknowledge()
        stream = self._state.get_next_available_stream_id()
        self._state.send_headers(stream, list(headers.items()), end_stream=last)
        return stream

    def send(self, stream: int, data: bytes, *, last: bool = False) -> None:
        """Sends a part of a body."""
        self._state.send_data(stream, data, end_stream=last)

    async def events(self) -> list[h2.events.Event]:
        """Sends what is due and waits for what comes. Raises EOFError at the connection's end."""
        self._connection.writer.write(self._state.data_to_send())
        async with asyncio.timeout(20):
            received = await self._connection.reader.read(65536)
        if not received:
            raise EOFError
        return self._state.receive_data(received)
