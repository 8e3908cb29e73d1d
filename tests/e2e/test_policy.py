"""Generated from the contract: what it does not list is denied, on the network and on the host."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from mesh.contracts import load
from mesh.contracts.model import Method, Role
from mesh.local.layout import Layout
from mesh.place import EDGE
from tests.support.mesh import RunningMesh

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

CONTRACT = load()
WORKLOADS = CONTRACT.workloads()
NOBODY = 65534

# (callee, method) for each method that an instance of the callee serves.
SERVED = [
    pytest.param(callee, method, id=f"{callee}-{method.path[1:]}")
    for callee in WORKLOADS
    for service in CONTRACT.served_by(callee)
    for method in service.methods
    if Role.UNENROLLED not in method.callers.roles
]


def may_call(method: Method, callee: str, region: str, caller: str, caller_region: str) -> bool:
    """What the contract says, spelled out once more: the test does not ask the code under test."""
    callers = method.callers
    if callers.any_workload or caller in callers.workloads:
        return True
    return callers.peers and caller == callee and caller_region != region


def credentials(identity: Path) -> grpc.ChannelCredentials:
    """The certificate in an identity folder, or without a key and a chain just the roots."""
    return grpc.ssl_channel_credentials(
        (identity / "trust.crt").read_bytes(),
        (identity / "tls.key").read_bytes(),
        (identity / "tls.crt").read_bytes(),
    )


async def status(
    address: str, name: str, held: grpc.ChannelCredentials, path: str, workload: str = ""
) -> tuple[grpc.StatusCode, str]:
    """What a call with one empty message gets, whatever its kind; OK once anything came back.

    `workload` is whom it is for, where an edge cannot tell that by its path.
    """
    metadata = (("x-isthmus-workload", workload),) if workload else ()
    options = [("grpc.ssl_target_name_override", name), ("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.secure_channel(address, held, options=options) as channel:
        call = channel.unary_stream(path)(b"", timeout=1.5, metadata=metadata)
        try:
            await call.read()
        except grpc.aio.AioRpcError as error:
            return error.code(), error.details() or ""
        return await call.code() if call.done() else grpc.StatusCode.OK, ""


@pytest.mark.parametrize(("callee", "method"), SERVED)
async def test_a_workload_is_denied_what_does_not_list_it(
    running_mesh: RunningMesh, callee: str, method: Method
) -> None:
    """Each workload, in its own and in another region, around its own sidecar."""
    layout = running_mesh.layout
    address = str(layout.topology.inbound("eu", callee))
    name = f"{callee}.eu.{layout.topology.trust_domain}"
    callers = [(c, r) for c in WORKLOADS for r in ("eu", "us")]
    answers = await asyncio.gather(
        *(
            status(address, name, credentials(layout.place(r, c).identity), method.path)
            for c, r in callers
        )
    )
    for (caller, region), (code, details) in zip(callers, answers, strict=True):
        listed = may_call(method, callee, "eu", caller, region)
        denied = (code, details) == (grpc.StatusCode.PERMISSION_DENIED, "RBAC: access denied")
        assert denied is not listed, f"{caller} in {region}: {code.name} {details}"


async def test_an_edge_says_that_it_must_know_which_workload_is_asked(
    running_mesh: RunningMesh,
) -> None:
    layout = running_mesh.layout
    edge = str(layout.topology.edge("eu"))
    members = "/isthmus.replication.v1.MembersService/Evict"
    for workload in ("", "nobody"):
        answer = await status(edge, "localhost", credentials(layout.operator), members, workload)
        assert answer == (
            grpc.StatusCode.PERMISSION_DENIED,
            "say in the header x-isthmus-workload which workload is asked: devices, channels",
        )


@pytest.mark.parametrize(("callee", "method"), SERVED)
async def test_an_edge_carries_only_what_lists_a_role(
    running_mesh: RunningMesh, callee: str, method: Method
) -> None:
    """An operator and a device, through the edge, and around it."""
    layout = running_mesh.layout
    edge = str(layout.topology.edge("eu"))
    inbound = str(layout.topology.inbound("eu", callee))
    inbound_name = f"{callee}.eu.{layout.topology.trust_domain}"
    identities = {
        Role.OPERATOR: layout.operator,
        Role.DEVICE: layout.state / "devices" / "encoder-eu-1" / "identity",
    }
    for role, folder in identities.items():
        held = credentials(folder)
        code, details = await status(edge, "localhost", held, method.path, callee)
        if role not in method.callers.roles:
            assert code == grpc.StatusCode.PERMISSION_DENIED, f"{role}: {code.name} {details}"
        else:
            assert "RBAC" not in details, f"{role}: {code.name} {details}"
        code, _ = await status(inbound, inbound_name, held, method.path)
        assert code == grpc.StatusCode.PERMISSION_DENIED, f"{role} around the edge"


async def test_without_a_certificate_no_listener_answers(running_mesh: RunningMesh) -> None:
    topology = running_mesh.layout.topology
    roots = grpc.ssl_channel_credentials((running_mesh.layout.operator / "trust.crt").read_bytes())
    for workload in (*WORKLOADS, EDGE):
        code, _ = await status(
            str(topology.inbound("eu", workload)),
            f"{workload}.eu.{topology.trust_domain}",
            roots,
            "/isthmus.mesh.v1.StatusService/GetStatus",
        )
        assert code == grpc.StatusCode.UNAVAILABLE, workload


# Runs as root and gives its rights up, since another user may not read this interpreter's files.
_AS_NOBODY = """
import json, os, socket, sys
sockets, files = json.loads(sys.stdin.read())
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
open_to_me = []
for path in sockets:
    try:
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(path)
        open_to_me.append(path)
    except PermissionError:
        pass
for path in files:
    try:
        with open(path, "rb"):
            open_to_me.append(path)
    except PermissionError:
        pass
print(json.dumps(open_to_me))
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can act as another user: sudo make e2e")
def test_no_socket_key_or_journal_is_open_to_another_user(running_mesh: RunningMesh) -> None:
    layout = running_mesh.layout
    sockets = [str(p) for p in layout.run.rglob("*") if stat.S_ISSOCK(p.stat().st_mode)]
    files = [str(p) for p in layout.state.rglob("*") if p.is_file()]
    assert len(sockets) > 3 * len(WORKLOADS)
    assert any(name.endswith("tls.key") for name in files)
    done = subprocess.run(
        [sys.executable, "-c", _AS_NOBODY],
        input=json.dumps([sockets, files]),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []


def test_keys_are_the_owners_alone(running_mesh: RunningMesh) -> None:
    keys = [path for path in _all(running_mesh.layout) if path.name.endswith(".key")]
    assert len(keys) > 3 * len(WORKLOADS)
    for path in keys:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def _all(layout: Layout) -> list[Path]:
    return [path for path in layout.state.rglob("*") if path.is_file()]
