"""The agent's parts without an Envoy that runs: refusals, the admin socket, verdicts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mesh import topology as topologies
from mesh.agent import EnrolmentRefused, Sidecar, State, Status, admin
from mesh.contracts.model import Contract
from mesh.envoy import EnvoyConfigError, validate
from mesh.envoy.binary import reason
from mesh.local.derive import derive
from mesh.place import Place
from tests.support.ports import free_blocks

ORIGINAL = topologies.load(Path(__file__).parents[3] / "mesh.yaml")
TOKEN = f"isthmus1.eu.workload.channels.{'ab' * 32}.secret"


def _sidecar(folder: Path, on_change: Callable[[Status], None] | None = None) -> Sidecar:
    # On ports that are free: a mesh may run beside the tests.
    topology = derive(ORIGINAL, folder, free_blocks(len(ORIGINAL.regions) + 1))
    place = Place("eu", "channels", topology.path, folder / "run", folder / "state")
    return Sidecar(Contract({}, {}), topology, place, on_change=on_change)


async def test_without_identity_and_token_it_says_where_tokens_come_from(tmp_path: Path) -> None:
    seen: list[State] = []
    sidecar = _sidecar(tmp_path, lambda status: seen.append(status.state))
    with pytest.raises(EnrolmentRefused, match=r"channels.*`isthmus up` makes one"):
        await sidecar.start()
    assert sidecar.pid is None
    assert seen[-1] is State.FAILED
    assert "no join token" in sidecar.status.problem


async def test_a_token_that_is_none_is_refused_without_being_repeated(tmp_path: Path) -> None:
    with pytest.raises(EnrolmentRefused, match="not a join token") as caught:
        await _sidecar(tmp_path).start("isthmus1.secret-stuff")
    assert "secret-stuff" not in str(caught.value)


async def test_an_authority_that_never_answers_is_named(tmp_path: Path) -> None:
    sidecar = _sidecar(tmp_path)
    with pytest.raises(EnrolmentRefused, match=r"no authority answers at .*must run first"):
        await sidecar.start(TOKEN, ready_within=0.3)


async def test_stopping_what_never_ran_is_fine(tmp_path: Path) -> None:
    sidecar = _sidecar(tmp_path)
    await sidecar.stop()
    await sidecar.stop()
    await sidecar.wait()
    assert sidecar.status.state is State.STOPPED


@asynccontextmanager
async def _answering(socket: Path, answer: bytes) -> AsyncIterator[None]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_unix_server(serve, str(socket))
    async with server:
        yield


@pytest.mark.parametrize(
    ("state", "here", "asked", "expected"),
    [
        ("LIVE", 0, None, True),
        ("LIVE", 2, 2, True),
        ("LIVE", 1, 2, False),  # the one before, which still answers
        ("INITIALIZING", 2, 2, False),
        ("DRAINING", 0, None, False),
    ],
)
async def test_the_envoy_that_is_asked_for_is_ready(
    tmp_path: Path, state: str, here: int, asked: int | None, expected: bool
) -> None:
    info = {"state": state, "command_line_options": {"restart_epoch": here}}
    answer = b"HTTP/1.1 200 OK\r\n\r\n" + json.dumps(info).encode()
    async with _answering(tmp_path / "admin.sock", answer):
        assert await admin.ready(tmp_path / "admin.sock", asked) is expected


@pytest.mark.parametrize("page", [b"LIVE", b"[]", b"{}"])
async def test_a_page_that_says_nothing_of_envoy_is_a_typed_error(
    tmp_path: Path, page: bytes
) -> None:
    async with _answering(tmp_path / "admin.sock", b"HTTP/1.1 200 OK\r\n\r\n" + page):
        with pytest.raises(admin.AdminUnreachable, match="how Envoy stands"):
            await admin.ready(tmp_path / "admin.sock")


@pytest.mark.parametrize("answer", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 no\r\n\r\n"])
async def test_what_is_no_admin_interface_is_a_typed_error(tmp_path: Path, answer: bytes) -> None:
    async with _answering(tmp_path / "admin.sock", answer):
        with pytest.raises(admin.AdminUnreachable):
            await admin.post(tmp_path / "admin.sock", "/healthcheck/fail")


async def test_no_admin_socket_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(admin.AdminUnreachable):
        await admin.ready(tmp_path / "admin.sock")


def test_envoys_reason_is_passed_on(tmp_path: Path) -> None:
    bootstrap = tmp_path / "bootstrap.json"
    bootstrap.write_text('{"static_resources": {"clusters": [{"name": "x", "nonsense": 1}]}}')
    with pytest.raises(EnvoyConfigError, match=r"Envoy refuses .*no such field: 'nonsense'"):
        validate(bootstrap)


def test_the_reason_is_the_last_complaint_without_its_prefix() -> None:
    output = (
        "[2026-01-01 00:00:00.000][1][info][main] [source/server/server.cc:1] starting\n"
        "[2026-01-01 00:00:00.000][1][critical][main] [source/server/server.cc:2] error: bad port\n"
        "[2026-01-01 00:00:00.000][1][info][main] [source/server/server.cc:3] exiting\n"
    )
    assert reason(output) == "error: bad port"
    assert reason("") == "it gave no reason"
