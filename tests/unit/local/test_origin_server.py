"""The media origin: what it serves, and what it must not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mesh.local.origin import Origin
from mesh.topology import Address
from tests.support.ports import free_blocks


@pytest.fixture
async def origin(tmp_path: Path) -> AsyncIterator[Address]:
    root = tmp_path / "origin"
    (root / "news" / "a1").mkdir(parents=True)
    (root / "news" / "live.m3u8").write_text("#EXTM3U\n")
    (root / "news" / "a1" / "7.ts").write_bytes(bytes(range(256)) * 1024)
    (root / "news" / ".secret").write_text("hidden")
    (tmp_path / "key").write_text("outside")
    (root / "news" / "out").symlink_to(tmp_path / "key")
    address = Address("127.0.0.1", free_blocks(1)[0])
    server = Origin(root, address)
    await server.start()
    yield address
    await server.close()


async def ask(address: Address, *requests: str) -> list[tuple[int, dict[str, str], bytes]]:
    """Sends requests over one connection, raw, as no client library would let us."""
    reader, writer = await asyncio.open_connection(address.host, address.port)
    replies = []
    for request in requests:
        writer.write(request.encode("latin-1"))
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {
            name.lower(): value for name, _, value in (h.partition(": ") for h in head[1:]) if name
        }
        size = 0 if request.startswith("HEAD") else int(headers["content-length"])
        replies.append((int(head[0].split()[1]), headers, await reader.readexactly(size)))
    writer.close()
    await writer.wait_closed()
    return replies


def get(path: str, *headers: str) -> str:
    return "\r\n".join((f"GET {path} HTTP/1.1", "Host: x", *headers, "", ""))


async def test_playlists_are_never_cached(origin: Address) -> None:
    [(status, headers, body)] = await ask(origin, get("/news/live.m3u8?x=1"))
    assert (status, body) == (200, b"#EXTM3U\n")
    assert headers["content-type"] == "application/vnd.apple.mpegurl"
    assert headers["cache-control"] == "no-cache, no-store"


async def test_one_connection_carries_many_requests(origin: Address) -> None:
    path = "/news/a1/7.ts"
    whole, part, suffix, beyond, head = await ask(
        origin,
        get(path),
        get(path, "Range: bytes=10-19"),
        get(path, "Range: bytes=-4"),
        get(path, "Range: bytes=999999-"),
        get(path).replace("GET", "HEAD"),
    )
    assert whole[0] == 200 and len(whole[2]) == 262144
    assert whole[1]["content-type"] == "video/mp2t"
    assert part[0] == 206 and part[2] == bytes(range(10, 20))
    assert part[1]["content-range"] == "bytes 10-19/262144"
    assert suffix[2] == bytes(range(252, 256))
    assert beyond[0] == 416
    assert head[0] == 200 and head[1]["content-length"] == "262144"


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/news", "/news/", "/none/live.m3u8", "/news/.secret", "/news/out"),
        *("/../key", "/news/../../key", "/news/%2e%2e/%2e%2e/key", "/%2e%2e%2fkey"),
        *("//etc/passwd", "/news/live.m3u8%00", "/news\\..\\..\\key", "/news/%ff.ts", "*"),
    ],
)
async def test_nothing_else_is_served(origin: Address, path: str) -> None:
    [(status, _, body)] = await ask(origin, get(path))
    assert status == 404
    assert b"outside" not in body and b"hidden" not in body


async def test_it_cannot_be_written_to(origin: Address) -> None:
    [(status, headers, _)] = await ask(origin, get("/news/live.m3u8").replace("GET", "DELETE"))
    assert status == 405
    assert headers["allow"] == "GET, HEAD"


async def test_what_is_no_http_ends_the_connection(origin: Address) -> None:
    reader, writer = await asyncio.open_connection(origin.host, origin.port)
    writer.write(b"x" * 40000)
    writer.write_eof()
    received = b""
    try:
        received = await asyncio.wait_for(reader.read(), 10)
    except ConnectionResetError:
        pass  # the server closed with bytes of ours unread
    assert received == b""
    writer.close()


async def test_a_number_beyond_all_reason_is_no_range(
    origin: Address, caplog: pytest.LogCaptureFixture
) -> None:
    digits = "9" * 5000  # more than Python reads
    replies = await ask(
        origin,
        get("/news/a1/7.ts", f"Range: bytes={digits}-"),
        get("/news/a1/7.ts", f"Range: bytes=-{digits}"),
    )
    assert [status for status, _, _ in replies] == [200, 200]
    assert not caplog.records
