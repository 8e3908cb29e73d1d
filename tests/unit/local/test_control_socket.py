"""The control socket's protocol, and the drills behind it."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from mesh.contracts import load
from mesh.control import Installation
from mesh.local.control import ControlClient, ControlServer
from mesh.local.device import Device
from mesh.local.drills import Drills
from mesh.local.errors import AlreadyUp, BadRequest, LocalError, NotRunning, NotUp
from mesh.local.layout import Layout
from mesh.local.progress import silent
from mesh.local.region import LocalRegion
from mesh.local.supervisor import utc_now
from mesh.local.wan import HEALTHY, Fault, Wan
from mesh.topology import Address, DeviceSpec, Region, Topology


@pytest.fixture
def wan(tmp_path: Path) -> Wan:
    regions = tuple(Region(name, "127.0.0.1", 1) for name in ("eu", "us", "ap"))
    address = Address("127.0.0.1", 1)
    return Wan(
        Topology(tmp_path, "isthmus.test", regions, ("channels",), (), tmp_path, address, None)
    )


@pytest.fixture
async def control(wan: Wan) -> AsyncIterator[ControlClient]:
    async def echo(**arguments: Any) -> Any:
        return arguments

    async def breaks() -> None:
        raise OSError("the disk is gone")

    with TemporaryDirectory() as folder:
        path = Path(folder) / "control.sock"
        path.touch()  # as a killed supervisor leaves it
        server = ControlServer(path, {"echo": echo, "breaks": breaks, **Drills(wan, {}).handlers()})
        await server.start()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        yield ControlClient(path)
        await server.close()
        assert not path.exists()


async def test_answers(control: ControlClient) -> None:
    assert await control.ask("echo", region="eu", n=1) == {"region": "eu", "n": 1}


async def test_a_socket_of_another_user_is_not_believed(
    control: ControlClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While no mesh is up, anybody may have made the folder in /tmp."""
    own = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: own + 1)
    with pytest.raises(NotUp, match=f"belongs to user {own}"):
        await control.ask("echo")


async def test_a_handler_that_breaks_says_why(control: ControlClient) -> None:
    with pytest.raises(LocalError, match="the disk is gone"):
        await control.ask("breaks")
    assert await control.ask("echo", a=1) == {"a": 1}


async def test_unknown_requests_are_taught(control: ControlClient) -> None:
    with pytest.raises(BadRequest, match=r"NAME one of .*wan-cut"):
        await control.ask("explode")


async def test_wrong_arguments_are_refused(control: ControlClient) -> None:
    with pytest.raises(BadRequest, match="unexpected keyword argument"):
        await control.ask("wan-cut", planet="mars")


async def test_what_is_no_json_is_refused(control: ControlClient) -> None:
    reader, writer = await asyncio.open_unix_connection(str(control.path))
    writer.write(b"hello\n[]\n")
    for _ in range(2):
        assert b'"ok": false' in await reader.readline()
    writer.close()


async def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(NotUp, match="isthmus up"):
        await ControlClient(tmp_path / "control.sock").ask("describe")


async def test_a_region_is_cut_off_and_healed(control: ControlClient, wan: Wan) -> None:
    assert sorted(await control.ask("wan-cut", region="ap")) == [
        "ap->eu",
        "ap->us",
        "eu->ap",
        "us->ap",
    ]
    assert wan.link("ap", "eu").fault.cut and wan.link("us", "ap").fault.cut
    assert wan.link("eu", "us").fault == HEALTHY
    assert len(await control.ask("wan-heal")) == 6
    assert all(link.fault == HEALTHY for link in wan.links.values())


async def test_one_direction_is_delayed_and_stalled(control: ControlClient, wan: Wan) -> None:
    await control.ask("wan-delay", source="eu", target="us", seconds=0.2, jitter=0.1)
    await control.ask("wan-stall", source="eu", target="us")
    assert wan.link("eu", "us").fault == Fault(delay=0.2, jitter=0.1, stall=True)
    assert wan.link("us", "eu").fault == HEALTHY


@pytest.mark.parametrize(
    "do, arguments, message",
    [
        ("wan-cut", {}, "name a region, or a source and a target"),
        ("wan-cut", {"source": "eu"}, "name a region, or a source and a target"),
        ("wan-cut", {"source": "eu", "target": "mars"}, "no link eu->mars: there are"),
        ("wan-delay", {"source": "eu", "target": "us", "seconds": -1}, "0 or more"),
        ("region-kill", {"region": "mars"}, "no region 'mars'"),
        ("device-kill", {"device_id": "x"}, "no device 'x' runs here"),
    ],
)
async def test_impossible_drills_are_refused(
    control: ControlClient, do: str, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadRequest, match=message):
        await control.ask(do, **arguments)


@pytest.fixture
def drills(wan: Wan, tmp_path: Path) -> Drills:
    """The drills of one region, with a device, of which nothing runs."""
    address = Address("127.0.0.1", 1)
    topology = Topology(
        path=tmp_path / "mesh.yaml",
        trust_domain="isthmus.test",
        regions=(Region("eu", "127.0.0.1", 1),),
        workloads=("authority", "channels"),
        devices=(DeviceSpec("encoder-1", "eu", 1),),
        media_root=tmp_path,
        origin=address,
        otlp=None,
    )

    async def installation() -> Installation:
        raise AssertionError("there is no control plane")

    region = LocalRegion(
        load(), Layout.of(topology), "eu", silent, lambda: None, utc_now, installation
    )
    return Drills(wan, {"eu": region})


async def test_what_runs_is_not_started_again(
    drills: Drills, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Device, "running", True)
    with pytest.raises(AlreadyUp, match="encoder-1 runs already: kill it first"):
        await drills.device_start("encoder-1")
    with pytest.raises(AlreadyUp, match="eu runs already: kill it first"):
        await drills.region_start("eu")


async def test_what_does_not_run_cannot_crash(drills: Drills) -> None:
    with pytest.raises(NotRunning, match="channels in eu does not run: start eu first"):
        await drills.workload_kill("eu", "channels")
    with pytest.raises(NotRunning, match="encoder-1 does not run: start it instead"):
        await drills.device_kill("encoder-1", restart=True)
    with pytest.raises(BadRequest, match="no workload 'edge' with a process"):
        await drills.workload_kill("eu", "edge")
