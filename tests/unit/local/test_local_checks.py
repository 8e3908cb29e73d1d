"""What is checked before a mesh starts, and who holds its lock."""

from __future__ import annotations

import os
import resource
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from mesh.local import checks, ports
from mesh.local.derive import derive
from mesh.local.errors import AlreadyUp, NotReady
from mesh.local.layout import Layout, private_folder
from mesh.local.ports import claim_blocks, holder, is_free
from mesh.local.record import ProcessRecord, Record, locked, read, running, write
from mesh.topology import Address, Topology, load
from tests.support.ports import free_blocks

MESH = """\
version: 1
trust_domain: isthmus.test
regions:
  - {{name: eu, host: 127.0.0.1, base_port: {eu}}}
  - {{name: us, host: 127.0.0.1, base_port: {us}}}
workloads: [authority, channels]
devices:
  - {{id: encoder-1, region: us, capacity: 3}}
media: {{root: media, origin: "127.0.0.1:{origin}"}}
"""


@pytest.fixture
def topology(tmp_path: Path) -> Topology:
    eu, us, origin = free_blocks(3)
    path = tmp_path / "mesh.yaml"
    path.write_text(MESH.format(eu=eu, us=us, origin=origin))
    return load(path)


@pytest.fixture
def layout(topology: Topology, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    monkeypatch.setenv("XDG_RUNTIME_DIR", f"/tmp/isthmus-test-{os.getpid()}")
    return Layout(topology, tmp_path / ".isthmus", tmp_path / "run")


def test_a_ready_machine_passes(layout: Layout) -> None:
    layout.prepare()
    checks.check_machine(layout)


def test_every_port_is_checked_once(topology: Topology) -> None:
    ports = [address.port for address, _, _ in checks.addresses(topology)]
    assert len(ports) == len(set(ports)) == 2 * (2 + 2 + 3) + 1


@pytest.mark.parametrize(
    "offset, purpose", [(0, "the edge of us"), (1, "enrolment in us"), (11, "channels in us")]
)
def test_a_taken_port_is_named_with_its_holder_and_key(
    topology: Topology, offset: int, purpose: str
) -> None:
    port = topology.regions[1].base_port + offset
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        with pytest.raises(NotReady) as refused:
            checks.check_ports(topology)
        message = str(refused.value)
        assert f"127.0.0.1:{port} ({purpose}) is taken by" in message
        assert f"(pid {os.getpid()})" in message
        assert "regions[1].base_port" in message
        assert holder(port) is not None
    assert is_free(Address("127.0.0.1", port))
    assert holder(port) is None


def test_a_port_that_an_outgoing_connection_took_is_explained(
    topology: Topology, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = topology.regions[1].base_port
    allowed = tmp_path / "ip_local_port_range"
    allowed.write_text(f"{port - 50}\t{port + 50}\n")
    monkeypatch.setattr(ports, "_OUTGOING", allowed)
    with socket.socket() as server, socket.socket() as client:
        server.bind(("127.0.0.1", 0))
        server.listen()
        client.bind(("127.0.0.1", port))
        client.connect(server.getsockname())
        with pytest.raises(NotReady) as refused:
            checks.check_ports(topology)
    message = str(refused.value)
    assert f"127.0.0.1:{port} (the edge of us) is taken by an outgoing connection" in message
    assert f"ports {port - 50} to {port + 50}: change regions[1].base_port in" in message


def test_a_foreign_address_cannot_be_bound(tmp_path: Path, topology: Topology) -> None:
    text = topology.path.read_text().replace('origin: "127.0.0.1', 'origin: "192.0.2.1')
    topology.path.write_text(text)
    with pytest.raises(NotReady, match=r"192\.0\.2\.1:.*Change media\.origin"):
        checks.check_ports(load(topology.path))


def test_too_little_disk_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotReady, match="MiB are free and a mesh needs"):
        checks.check_disk(tmp_path, 1 << 60)


def test_a_disk_that_takes_no_more_is_noticed(tmp_path: Path) -> None:
    """A limit on file sizes stands in for a full disk: the probe's write fails part of the way."""
    script = (
        "import signal\n"
        "from pathlib import Path\n"
        "from mesh.local.checks import check_disk\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"check_disk(Path({str(tmp_path)!r}), 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "takes no more data" in done.stderr.splitlines()[-1]
    assert not (tmp_path / ".space").exists()


def test_a_missing_tool_is_named(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    layout.prepare()
    monkeypatch.setenv("PATH", "")
    with pytest.raises(NotReady, match="apt-get install util-linux"):
        checks.check_machine(layout)


def test_long_socket_paths_are_refused_early(topology: Topology, tmp_path: Path) -> None:
    layout = Layout(topology, tmp_path, Path("/tmp") / ("x" * 90))
    with pytest.raises(NotReady, match=r"107 bytes.*XDG_RUNTIME_DIR"):
        layout.check_socket_paths()


def test_folders_are_private(layout: Layout) -> None:
    layout.prepare()
    for folder in (layout.state, layout.run):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    private_folder(layout.run / "eu" / "channels")
    assert stat.S_IMODE((layout.run / "eu").stat().st_mode) == 0o700


def test_a_run_folder_that_is_a_link_is_refused(layout: Layout, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    layout.run.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(NotReady, match="not a folder of this user's"):
        layout.prepare()


def test_a_state_that_cannot_be_made_is_explained(topology: Topology, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    layout = Layout(topology, tmp_path / "file" / ".isthmus", tmp_path / "run")
    with pytest.raises(NotReady, match="both must be writable"):
        layout.prepare()


def test_a_second_supervisor_is_told_who_runs(layout: Layout) -> None:
    layout.prepare()
    assert not running(layout)
    with locked(layout):
        assert running(layout)
        with pytest.raises(AlreadyUp, match=f"pid {os.getpid()}.*isthmus down"), locked(layout):
            pass
    assert not running(layout)


def test_the_record_survives_reading(tmp_path: Path) -> None:
    process = ProcessRecord("eu/channels", "workload", "eu", 42, "/x.log", 1)
    record = Record(1, "up", "/mesh.yaml", "/control.sock", 5, 6, (process,))
    write(tmp_path / "up.json", record)
    assert read(tmp_path / "up.json") == record
    (tmp_path / "up.json").write_text("{")
    assert read(tmp_path / "up.json") is None


def test_a_derived_mesh_has_its_own_ports_and_the_same_shape(
    topology: Topology, tmp_path: Path
) -> None:
    (tmp_path / "copy").mkdir()
    bases = free_blocks(3)
    copy = derive(topology, tmp_path / "copy", bases)
    assert [region.base_port for region in copy.regions] == bases[:2]
    assert copy.origin == Address("127.0.0.1", bases[2])
    assert copy.workloads == topology.workloads
    assert copy.devices == topology.devices
    assert copy.media_root == topology.media_root
    assert Layout.of(copy).run != Layout.of(topology).run
    with pytest.raises(ValueError, match="3 blocks"):
        derive(topology, tmp_path, bases[:2])


def test_claimed_blocks_differ() -> None:
    one, other = claim_blocks(2), claim_blocks(2)
    assert len({*one.bases, *other.bases}) == 4
    one.release()
    other.release()


def test_too_few_inotify_instances_are_found_before_envoy_aborts() -> None:
    checks.check_watches(1)
    with pytest.raises(NotReady, match=r"need 100000 inotify instances.*max_user_instances"):
        checks.check_watches(100_000)
    checks.check_watches(1)
