"""What ffmpeg fetches for a source, with a real ffmpeg and a server of playlists."""

from __future__ import annotations

import asyncio
import functools
import http.server
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import imageio_ffmpeg
import pytest
from isthmus.channels.v1.channel_pb2 import Profile, Source

from mesh.identity.spiffe import WorkloadId
from services.device_agent.command import arguments
from tests.support.gateway import DOMAIN, TestAuthority

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second of picture."""
    path = tmp_path_factory.mktemp("clip") / "clip.ts"
    pattern = ("-f", "lavfi", "-i", "smptebars=size=64x64:rate=10", "-t", "1")
    subprocess.run(
        [FFMPEG, "-loglevel", "error", *pattern, "-c:v", "libx264", "-y", path], check=True
    )
    return path


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the https address that serves it."""
    folder = tmp_path / "site"
    folder.mkdir()
    leaf, key = TestAuthority().leaf(WorkloadId(DOMAIN, "eu", "site"), ("127.0.0.1",))
    (tmp_path / "tls.pem").write_bytes(leaf.chain_pem + key)
    (tmp_path / "trust.pem").write_bytes(leaf.trust_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "tls.pem")
    handler = functools.partial(_Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield folder, f"https://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


async def encoded(url: str, tmp_path: Path) -> tuple[int, str]:
    """The exit code, and what was said, of the encoder for a URL."""
    out = tmp_path / "out"
    out.mkdir()
    command = arguments(FFMPEG, Source(url=url), Profile(), tmp_path, out, "1")
    process = await asyncio.create_subprocess_exec(
        *command,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env={"SSL_CERT_FILE": str(tmp_path / "trust.pem")},
    )
    _, said = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()


def playlist(segment: str) -> str:
    return f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{segment}\n#EXT-X-ENDLIST\n"


async def test_a_playlist_of_its_own_site_is_encoded(
    site: tuple[Path, str], clip: Path, tmp_path: Path
) -> None:
    folder, address = site
    (folder / "clip.ts").write_bytes(clip.read_bytes())
    (folder / "live.m3u8").write_text(playlist("clip.ts"))
    assert await encoded(f"{address}/live.m3u8", tmp_path) == (0, "")
    assert (tmp_path / "out" / "1-000000.ts").stat().st_size > 1000


async def test_a_playlist_from_afar_reads_no_file_of_the_device(
    site: tuple[Path, str], clip: Path, tmp_path: Path
) -> None:
    folder, address = site
    (folder / "live.m3u8").write_text(playlist(f"file://{clip}"))
    await encoded(f"{address}/live.m3u8", tmp_path)
    assert not list((tmp_path / "out").iterdir())
