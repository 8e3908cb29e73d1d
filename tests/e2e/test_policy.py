"""Generated from the contract: what it does not list is denied, on the network and on the host."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

from mesh.contracts import exceptions, load
from mesh.contracts.model import Callers, Locality, Role
from mesh.envoy.telemetry import ACCESS_LOG
from mesh.local.layout import Layout
from mesh.place import EDGE
from tests.support.mesh import RunningMesh

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

CONTRACT = load()
WORKLOADS = CONTRACT.workloads()
NOBODY = 65534

OWN_REGION = {
    "envoy.service.discovery.v3.AggregatedDiscoveryService",
    "isthmus.mesh.v1.SidecarService",
    "isthmus.mesh.v1.TapService",
}
"""A control plane tells who comes from another region, itself, that it has nothing for him."""
DENIED = grpc.StatusCode.PERMISSION_DENIED
AROUND = "RBAC: access denied"
"""What a callee's sidecar, or an edge, says to whom it denies a method."""


@dataclass(frozen=True)
class Served:
    """A method that an instance of the callee serves; only what is `declared` has routes there."""

    callee: str
    path: str
    callers: Callers
    locality: Locality = Locality.LOCAL
    declared: bool = True


SERVED = [
    *(
        Served(callee, method.path, method.callers, method.locality)
        for callee in WORKLOADS
        for service in CONTRACT.served_by(callee)
        for method in service.methods
    ),
    *(
        Served(callee, path, callers, declared=False)
        for callee in WORKLOADS
        for path, callers in exceptions.served_by(callee).items()
    ),
]


def may_call(served: Served, caller: str, region: str) -> bool:
    """What the contract says, spelled out once more: the test does not ask the code under test."""
    callers = served.callers
    if callers.any_workload or caller in callers.workloads:
        return True
    return callers.peers and caller == served.callee and region != "eu"


def credentials(identity: Path) -> grpc.ChannelCredentials:
    """The certificate in an identity folder, or without a key and a chain just the roots."""
    return grpc.ssl_channel_credentials(
        (identity / "trust.crt").read_bytes(),
        (identity / "tls.key").read_bytes(),
        (identity / "tls.crt").read_bytes(),
    )


def connected(address: str, name: str, held: grpc.ChannelCredentials) -> grpc.aio.Channel:
    """A connection of its own to a listener that has a name."""
    options = [("grpc.ssl_target_name_override", name), ("grpc.use_local_subchannel_pool", 1)]
    return grpc.aio.secure_channel(address, held, options=options)


async def status(
    channel: grpc.aio.Channel, path: str, *metadata: tuple[str, str]
) -> tuple[grpc.StatusCode, str]:
    """What a call with one empty message gets, whatever its kind; OK once anything came back."""
    call = channel.unary_stream(path)(b"", timeout=4, metadata=metadata)
    try:
        await call.read()
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details() or ""
    found = (await call.code(), "") if call.done() else (grpc.StatusCode.OK, "")
    call.cancel()
    return found


@dataclass
class Try:
    """One call: by whom, which way, of what, and whether the contract lists the caller.

    `foreign`: the caller is of another region than the one that the service is for.
    """

    who: str
    channel: grpc.aio.Channel
    served: Served
    listed: bool
    says: str = AROUND
    foreign: bool = False
    metadata: tuple[tuple[str, str], ...] = ()
    trace: str = field(default_factory=lambda: secrets.token_hex(16))
    answer: tuple[grpc.StatusCode, str] = (grpc.StatusCode.OK, "")

    @property
    def logged(self) -> bool:
        """Sidecars ask each other's health all the time: that is in no log."""
        return not self.served.path.startswith("/grpc.health.v1.")

    async def run(self) -> None:
        traced = ("traceparent", f"00-{self.trace}-{secrets.token_hex(8)}-01")
        self.answer = await status(self.channel, self.served.path, traced, *self.metadata)

    def wrong(self, passed: bool) -> Iterator[str]:
        """What is wrong, given whether the callee's sidecar passed it on to the service."""
        code, details = self.answer
        text = f"{self.who}: {self.served.path}: {code.name} {details}"
        if not self.listed and (code is not DENIED or self.says not in details):
            yield f"{text}: is not denied"
        if not self.listed and passed:
            yield f"{text}: came to the service"
        denials = (DENIED, grpc.StatusCode.UNAUTHENTICATED)
        if self.listed and code in denials and not (passed and self.foreign):
            yield f"{text}: is denied"
        if self.listed and self.logged and not passed:
            yield f"{text}: did not come to the service"


async def judged(running_mesh: RunningMesh, callee: str, tries: list[Try]) -> None:
    """Makes all calls, and fails over what was let through or denied against the contract."""
    try:
        await asyncio.gather(*(each.run() for each in tries))
        # Envoy writes its log every second, and ends calls that were given up a little later.
        awaited = {each.trace for each in tries if each.listed and each.logged}
        seen: dict[str, Any] = {}
        end = asyncio.get_running_loop().time() + 20
        while awaited - seen.keys() and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0.2)
            seen = _passed(running_mesh.layout, callee)
    finally:
        for channel in {each.channel for each in tries}:
            await channel.close()
    assert any(each.listed for each in tries) and not all(each.listed for each in tries)
    wrong = [text for each in tries for text in each.wrong(bool(seen.get(each.trace)))]
    assert not wrong, "\n" + "\n".join(wrong)


def _passed(layout: Layout, callee: str) -> dict[str, Any]:
    """The traces in the log of a callee's sidecar, and which application each was passed on to."""
    log = layout.place("eu", callee).logs / ACCESS_LOG
    found: dict[str, Any] = {}
    for path in (log, log.with_name(f"{ACCESS_LOG}.1")):
        if path.exists():
            for line in path.read_bytes().rpartition(b"\n")[0].splitlines():
                said = json.loads(line)
                if said["listener"] == "inbound" and said["traceparent"]:
                    found[said["traceparent"].split("-")[1]] = said["upstream_host"]
    return found


@pytest.mark.proves(
    *("MethodContract.callers", "Callers.workloads", "Callers.peers", "Callers.any_workload"),
    "ServiceContract.workload",
)
@pytest.mark.parametrize("callee", WORKLOADS)
async def test_a_workload_is_denied_what_does_not_list_it(
    running_mesh: RunningMesh, callee: str
) -> None:
    """Each workload, in its own region and in others: through its sidecar, and around it."""
    layout = running_mesh.layout
    topology = layout.topology
    served = [each for each in SERVED if each.callee == callee]
    tries = []
    for region in topology.region_names:
        for caller in WORKLOADS:
            place = layout.place(region, caller)
            around = connected(
                str(topology.inbound("eu", callee)),
                f"{callee}.eu.{topology.trust_domain}",
                credentials(place.identity),
            )
            tries += [
                Try(
                    f"{region}/{caller}",
                    around,
                    each,
                    may_call(each, caller, region),
                    foreign=region != "eu" and each.path[1:].split("/")[0] in OWN_REGION,
                )
                for each in served
            ]
            for pinned in (False, True):
                if region != "eu" and not pinned:
                    continue  # it would ask the instance of its own region
                through = grpc.aio.insecure_channel(
                    f"unix:{place.egress_socket}",
                    options=[
                        ("grpc.default_authority", f"{callee}.eu" if pinned else callee),
                        ("grpc.use_local_subchannel_pool", 1),
                    ],
                )
                says = f"the contract does not let workload {caller} call this"
                tries += [
                    Try(
                        f"{region}/{caller} through its sidecar",
                        through,
                        each,
                        may_call(each, caller, region),
                        says,
                    )
                    for each in served
                    if each.declared and (each.locality is Locality.PINNED) == pinned
                ]
    await judged(running_mesh, callee, tries)


async def test_an_edge_says_that_it_must_know_which_workload_is_asked(
    running_mesh: RunningMesh,
) -> None:
    layout = running_mesh.layout
    members = "/isthmus.replication.v1.MembersService/Evict"
    address = str(layout.topology.edge("eu"))
    async with connected(address, "localhost", credentials(layout.operator)) as edge:
        for asked in ((), (("x-isthmus-workload", "nobody"),)):
            assert await status(edge, members, *asked) == (
                DENIED,
                "say in the header x-isthmus-workload which workload is asked: "
                "devices, channels, control",
            )


@pytest.mark.proves("Callers.roles", "Role.ROLE_OPERATOR", "Role.ROLE_DEVICE")
@pytest.mark.parametrize("callee", WORKLOADS)
async def test_an_edge_carries_only_what_lists_a_role(
    running_mesh: RunningMesh, callee: str
) -> None:
    """An operator, a device and a workload, through the edge, and the former two around it."""
    layout = running_mesh.layout
    topology = layout.topology
    inbound = str(topology.inbound("eu", callee)), f"{callee}.eu.{topology.trust_domain}"
    holders: dict[str, tuple[Role | None, Path]] = {
        "operator": (Role.OPERATOR, layout.operator),
        "device": (Role.DEVICE, layout.state / "devices" / "encoder-eu-1" / "identity"),
        "overview": (None, layout.place("eu", "overview").identity),
    }
    asked = (("x-isthmus-workload", callee),)
    tries = []
    for who, (role, folder) in holders.items():
        held = credentials(folder)
        edge = connected(str(topology.edge("eu")), "localhost", held)
        around = connected(*inbound, held)
        for each in SERVED:
            if each.callee != callee:
                continue
            listed = role in each.callers.roles
            tries.append(Try(f"{who} through the edge", edge, each, listed, "", metadata=asked))
            if role is not None:
                tries.append(Try(f"{who} around the edge", around, each, False))
    await judged(running_mesh, callee, tries)


async def test_without_a_certificate_no_listener_answers(running_mesh: RunningMesh) -> None:
    topology = running_mesh.layout.topology
    roots = grpc.ssl_channel_credentials((running_mesh.layout.operator / "trust.crt").read_bytes())
    for workload in (*WORKLOADS, EDGE):
        address, name = topology.inbound("eu", workload), f"{workload}.eu.{topology.trust_domain}"
        async with connected(str(address), name, roots) as channel:
            code, _ = await status(channel, "/isthmus.mesh.v1.StatusService/GetStatus")
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
