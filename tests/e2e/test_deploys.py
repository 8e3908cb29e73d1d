"""Deploys on a running mesh: good ones through their stages, broken ones back by themselves."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from isthmus.channels.v1.channels_pb2 import ListChannelsRequest
from isthmus.channels.v1.channels_pb2_grpc import ChannelServiceStub
from isthmus.options.v1 import options_pb2

from mesh.cli.exits import Exit
from mesh.cli.story.stage import Stage
from mesh.local.ports import claim_blocks
from mesh.topology import load
from tests.e2e.control import eventually
from tests.support.images import changed

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

CREATE = "isthmus.channels.v1.ChannelService/CreateChannel"
LIST = "isthmus.channels.v1.ChannelService/ListChannels"
FAST = ("--window", "2")


@dataclass
class Said:
    """What a command said."""

    code: int
    out: str
    errors: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Load:
    """Calls through each region's edge, by their status."""

    calls: dict[str, Counter[str]] = field(default_factory=dict)

    def failed(self, *, but: str = "") -> dict[str, Counter[str]]:
        return {
            region: found
            for region, found in self.calls.items()
            if region != but and set(found) != {"OK"}
        }


class Deployer:
    """Runs `isthmus mesh`, and load beside it."""

    def __init__(self, stage: Stage, folder: Path) -> None:
        self.stage = stage
        self.folder = folder
        self._files = 0

    async def run(self, *arguments: str, of: str = "mesh") -> Said:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "mesh.cli", of, *arguments),
            cwd=self.folder,
            env={"PATH": "/usr/bin:/bin", "ISTHMUS_MESH": str(self.stage.topology.path)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            out, errors = await asyncio.wait_for(process.communicate(), 150)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode is not None
        return Said(process.returncode, out.decode(), errors.decode())

    async def apply(self, image: bytes | None = None, *arguments: str) -> Said:
        given: tuple[str, ...] = ()
        if image is not None:
            self._files += 1
            file = self.folder / f"contracts-{self._files}.binpb"
            file.write_bytes(image)
            given = ("--from", str(file))
        return await self.run("apply", *given, *arguments)

    async def revisions(self) -> dict[str, set[str]]:
        """What each region's sidecars have acknowledged."""
        found = (await self.run("status", "--json")).json
        return {
            region["region"]: {
                each["acknowledged"] for each in region["sidecars"] if not each["from_files"]
            }
            for region in found["regions"]
        }

    async def settled(self, revision: str) -> None:
        """Waits until every sidecar has a revision."""

        async def all_have() -> bool:
            return all(found == {revision} for found in (await self.revisions()).values())

        await eventually(all_have, 30)

    async def on_trial(self, deploying: asyncio.Task[Said], region: str) -> None:
        """Waits until some sidecar of a region has what is being deployed, and others have not."""

        async def tried() -> bool:
            if deploying.done():
                pytest.fail(f"the deploy ended before its trial: {deploying.result()}")
            return len((await self.revisions()).get(region, ())) > 1

        await eventually(tried, 120)  # Envoy judges each sidecar, on a machine that may be busy

    @asynccontextmanager
    async def load(self) -> AsyncIterator[Load]:
        found, over = Load(), asyncio.Event()

        async def call(region: str) -> None:
            seen = found.calls[region] = Counter()
            while not over.is_set():
                try:
                    await self.stage.edges(region).call(
                        lambda channel: ChannelServiceStub(channel).ListChannels(
                            ListChannelsRequest(), timeout=5
                        ),
                        repeatable=False,
                    )
                    seen["OK"] += 1
                except grpc.aio.AioRpcError as error:
                    seen[error.code().name] += 1
                await asyncio.sleep(0.03)

        async with asyncio.TaskGroup() as group:
            for region in self.stage.regions:
                group.create_task(call(region))
            try:
                yield found
            finally:
                over.set()


@pytest.fixture
async def deployer(mesh_up: Stage, tmp_path: Path) -> AsyncIterator[Deployer]:
    made = Deployer(mesh_up, tmp_path)
    (before,) = (await made.revisions())["eu"]
    yield made
    history = (await made.run("history", "--json")).json["deploys"]
    if not history[0]["record"].get("ended"):
        await made.run("rollback")
    if any(found != {before} for found in (await made.revisions()).values()):
        await made.run("rollback", before)
    await made.settled(before)


REJECTING = ("eu", "devices")
"""The sidecar that is made to reject a revision."""


def slower(options: options_pb2.MethodContract) -> None:
    options.timeout.seconds = 9


def seldom(options: options_pb2.MethodContract) -> None:
    options.rate_limit.per_second = options.rate_limit.burst = 1


def moved(deployer: Deployer, region: str, base: int) -> Path:
    """The topology with a region's ports elsewhere, where nobody dials them."""
    document = yaml.safe_load(deployer.stage.topology.path.read_text())
    for each in document["regions"]:
        if each["name"] == region:
            each["base_port"] = base
    path = deployer.folder / "moved.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


async def test_a_good_deploy_goes_through_its_stages_and_back(deployer: Deployer) -> None:
    (before,) = (await deployer.revisions())["eu"]
    async with deployer.load() as load_:
        said = await deployer.apply(changed(CREATE, slower), *FAST)
        assert said.code == Exit.OK, said.out + said.errors
    assert not load_.failed(), (load_.calls, said.out)
    first, *others = said.out.splitlines()
    name = first.partition(":")[0]
    assert others[-1].startswith(f"{name} is confirmed; 6 sidecars changed")
    stages = list(dict.fromkeys(line.partition(":")[0] for line in others[:-1]))
    assert stages == ["eu/channels", "eu", "the rest"]
    assert await deployer.revisions() == {region: {name} for region in deployer.stage.regions}
    (last, *_) = (await deployer.run("history", "--json")).json["deploys"]
    assert last["record"]["revision"] == name
    assert last["record"]["previous"] == before
    assert last["record"]["phase"] == "DEPLOY_PHASE_CONFIRMED"
    assert last["record"]["actor"].endswith("/operator/local")
    # What runs is not deployed again.
    again = await deployer.apply(changed(CREATE, slower))
    assert again.code == Exit.CONFLICT
    assert f"revision {name} is what runs" in again.errors

    async with deployer.load() as load_:
        said = await deployer.run("rollback")
        assert said.code == Exit.OK, said.out + said.errors
        await deployer.settled(before)
    assert not load_.failed(), (load_.calls, said.out)
    unknown = await deployer.run("rollback", "0123456789ab")
    assert unknown.code == Exit.NOT_FOUND
    assert name in unknown.errors


async def test_a_policy_that_raises_errors_is_taken_back(deployer: Deployer) -> None:
    (before,) = (await deployer.revisions())["eu"]
    async with deployer.load() as load_:
        said = await deployer.apply(changed(LIST, seldom), "--window", "8")
        assert said.code == Exit.FAILED, said.out + said.errors
        await deployer.settled(before)
        await asyncio.sleep(0.5)
    # Only what came through the one sidecar that had it.
    assert not load_.failed(but="eu"), (load_.calls, said.out)
    assert set(load_.calls["eu"]) == {"OK", "RESOURCE_EXHAUSTED"}, said.out
    last, *blame = said.out.partition("eu/channels: rolled back")[2].splitlines()
    # The callee's sidecar counts them, and the edge through which they came: one tells first.
    assert re.search(r"calls failed at eu/(channels|edge), ", last), last
    assert LIST in last
    assert any(LIST in each and "(isthmus/channels/v1/channels.proto:" in each for each in blame)


async def test_an_illegal_contract_is_refused_by_line(deployer: Deployer) -> None:
    def greedy(options: options_pb2.MethodContract) -> None:
        options.retry.per_try.seconds = 60

    said = await deployer.apply(changed(CREATE, greedy))
    assert said.code == Exit.FAILED
    assert "is refused: the contract has a fault" in said.out
    assert "isthmus/channels/v1/channels.proto:" in said.out
    assert "RETRY_BEYOND_TIMEOUT" in said.out


@contextmanager
def taken(address: tuple[str, int]) -> Iterator[None]:
    """A port that nobody else can listen on."""
    with socket.socket() as holder:
        holder.bind(address)
        holder.listen(1)
        yield


async def test_what_envoy_rejects_is_taken_back(deployer: Deployer) -> None:
    """Envoy's validation opens no port, so that one is taken shows when the first sidecar tries."""
    (before,) = (await deployer.revisions())["eu"]
    claim = claim_blocks(1)
    path = moved(deployer, "eu", claim.bases[0])
    address = load(path).inbound(*REJECTING)
    try:
        async with deployer.load() as load_:
            with taken((address.host, address.port)):
                said = await deployer.apply(None, "--from-mesh", str(path), *FAST)
            assert said.code == Exit.FAILED, said.out + said.errors
            await deployer.settled(before)
    finally:
        claim.release()
    assert not load_.failed(), (load_.calls, said.out)
    assert "eu/devices: rolled back" in said.out
    assert "eu/devices rejects it: inbound" in said.out
    assert str(address.port) in said.out
    assert "the topology (mesh.yaml)" in said.out


async def test_what_makes_a_sidecar_unreachable_is_taken_back(deployer: Deployer) -> None:
    (before,) = (await deployer.revisions())["eu"]
    claim = claim_blocks(1)
    path = moved(deployer, "eu", claim.bases[0])
    try:
        async with deployer.load() as load_:
            said = await deployer.apply(None, "--from-mesh", str(path), "--window", "10")
            assert said.code == Exit.FAILED, said.out + said.errors
            await deployer.settled(before)
    finally:
        claim.release()
    assert not load_.failed(), (load_.calls, said.out)
    assert "eu/devices: rolled back" in said.out
    assert "the topology (mesh.yaml)" in said.out


@pytest.mark.parametrize("killed", ["eu", "us"])
async def test_a_control_plane_killed_in_the_middle(deployer: Deployer, killed: str) -> None:
    (before,) = (await deployer.revisions())["eu"]
    async with deployer.load() as load_:
        first = ("--first", "us/channels")
        deploying = asyncio.create_task(
            deployer.apply(changed(CREATE, slower), "--window", "60", *first)
        )

        await deployer.on_trial(deploying, "us")
        await deployer.stage.control.ask("workload-kill", region=killed, workload="control")
        said = await deploying
        assert said.code == Exit.FAILED, said.out + said.errors
        await deployer.settled(before)
    assert not load_.failed(), (load_.calls, said.out)
    why = {
        "eu": "the control plane that decides was restarted during the deploy",
        # Of these, the one that is noticed first: that depends on how long the start takes.
        "us": (
            "the control plane of us was restarted during the trial|"
            "nothing is heard of us/channels any more|"
            "us/[a-z]+ has lost the control plane"
        ),
    }
    assert re.search(why[killed], said.out), said.out


async def test_of_two_deployers_one_wins_and_the_other_is_told(deployer: Deployer) -> None:
    (before,) = (await deployer.revisions())["eu"]

    def other(options: options_pb2.MethodContract) -> None:
        options.timeout.seconds = 11

    found = await asyncio.gather(
        deployer.apply(changed(CREATE, slower), *FAST, "--region", "us"),
        deployer.apply(changed(CREATE, other), *FAST, "--region", "ap"),
    )
    won, lost = sorted(found, key=lambda each: each.code)
    assert (won.code, lost.code) == (Exit.OK, Exit.CONFLICT), found
    name = won.out.partition(":")[0]
    assert f"/operator/local deploys revision {name} since " in lost.errors
    assert await deployer.revisions() == {region: {name} for region in deployer.stage.regions}
    assert name != before


async def test_somebody_may_end_a_deploy(deployer: Deployer) -> None:
    (before,) = (await deployer.revisions())["eu"]
    deploying = asyncio.create_task(deployer.apply(changed(CREATE, slower), "--window", "60"))
    await deployer.on_trial(deploying, "eu")
    ended = await deployer.run("rollback", "--region", "ap")
    assert ended.code == Exit.OK, ended.errors
    said = await deploying
    assert said.code == Exit.FAILED
    assert "/operator/local ended it" in said.out
    await deployer.settled(before)


async def test_when_the_region_that_decides_is_lost_another_one_does(deployer: Deployer) -> None:
    (before,) = (await deployer.revisions())["eu"]

    async def done(*arguments: str, of: str = "mesh") -> str:
        said = await deployer.run(*arguments, of=of)
        assert said.code == Exit.OK, (arguments, said)
        return said.out

    async def can(*arguments: str, of: str = "mesh") -> bool:
        return (await deployer.run(*arguments, of=of)).code == Exit.OK

    async def eu_is_a_member() -> bool:
        said = await deployer.run("list", "--region", "us", "--json", of="members")
        (mesh,) = [each for each in json.loads(said.out)["groups"] if each["group"] == "mesh"]
        return all(each["counts"] for each in mesh["members"])

    ask, of_mesh = deployer.stage.control.ask, ("--group", "mesh")
    await ask("region-kill", region="eu")
    try:
        taken = await done("home", "--to", "us", "--force")
        assert taken == "us decides on deploys from now on\n"
        await done("home", "--to", "us", "--force", *of_mesh, of="members")
        await done("evict", "eu", *of_mesh, of="members")
        refused = await deployer.run("home", "--to", "eu")
        assert refused.code == Exit.CONFLICT, refused
        assert "eu is no member of the group 'mesh' now" in refused.errors

        said = await deployer.apply(changed(CREATE, slower), *FAST)
        assert said.code == Exit.OK, said.out + said.errors
        name = said.out.partition(":")[0]
    finally:
        await ask("region-start", region="eu", within=120)
        # It comes back with what it knew: only what it hears now counts.
        await done("rejoin", "eu", *of_mesh, of="members")
    await deployer.settled(name)
    await eventually(eu_is_a_member, 60)
    await done("home", "--to", "eu", *of_mesh, of="members")
    assert await done("home", "--to", "eu") == "eu decides on deploys from now on\n"
    await eventually(lambda: can("rollback"), 30)
    await deployer.settled(before)
    (last, *_) = json.loads(await done("history", "--json"))["deploys"]
    assert last["home"] == "eu"
