"""How deploys are written down, and what a region makes of it."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from isthmus.mesh.v1 import rollout_pb2 as pb

from mesh.contracts.read import image, load
from mesh.control import Installation, Source, Store, compile_mesh, history
from mesh.control.compiled import pack
from mesh.control.follower import Follower
from mesh.control.store import Standing
from mesh.replication import Group, Transaction, WriteContext
from mesh.runtime.errors import FailedPrecondition, Unavailable
from mesh.topology import load as load_topology
from mesh.xds.fleet import Fleet, Instance, Revision
from mesh.xds.resources import Library

TOPOLOGY = load_topology(Path(__file__).parents[3] / "mesh.yaml")
OWN = WriteContext(actor="spiffe://isthmus.test/region/eu/workload/control")
ANN = "spiffe://isthmus.test/operator/ann"
CHANNELS = Instance("eu", "channels")


@pytest.fixture(scope="module")
def installation() -> Installation:
    return compile_mesh(image(), load(), TOPOLOGY)


@pytest.fixture
async def group(tmp_path: Path) -> AsyncIterator[Group]:
    ticks = itertools.count(1_700_000_000_000_000_000, 1_000_000)  # each reading is a later one
    opened = await Group.open(
        load(),
        "mesh",
        region="eu",
        peers=[],
        folder=tmp_path / "group",
        clock=lambda: next(ticks),
    )
    yield opened
    await opened.leave()
    await opened.close()


class Region:
    """A control plane without its streams."""

    def __init__(self, group: Group, data: Path, installation: Installation) -> None:
        installation.into(data, "eu")
        self.group = group
        self.store, self.library = Store(data), Library()
        self.name = installation.revision.name
        self.source = installation.source
        self.compiled = pack(installation.revision, "eu")
        self.start()

    def start(self) -> None:
        """Begins (again) with what is on disk."""
        standing = self.store.standing()
        assert standing is not None
        self.fleet = Fleet(self.store.compiled(standing.good, self.library))
        self.follower = Follower(self.group, self.fleet, self.library, self.store, standing)

    async def obey(self) -> None:
        await self.follower.obey()

    def other(self, remark: str) -> tuple[Source, bytes]:
        """Another revision that compiles to the same."""
        source = replace(
            self.source,
            topology_text=self.source.topology_text.replace("isthmus.test", remark),
        )
        snapshots = self.fleet.good.snapshots
        return source, pack(Revision(source.name, snapshots), "eu")

    async def trial(self, remark: str) -> pb.Deploy:
        """Begins a deploy, and gives it to one sidecar."""
        source, compiled = self.other(remark)

        def change(tx: Transaction) -> pb.Deploy:
            deploy = history.begin(tx, pb.DEPLOY_KIND_APPLY, source.name, ANN)
            history.keep(tx, source, {"eu": compiled})
            return history.advance(tx, deploy, "eu/channels", [CHANNELS], watching=False)

        return await self.group.write(change, OWN)


@pytest.fixture
async def region(group: Group, tmp_path: Path, installation: Installation) -> Region:
    made = Region(group, tmp_path / "data", installation)
    await group.write(lambda tx: history.install(tx, made.name, made.name, OWN.actor), OWN)
    await made.obey()
    return made


async def test_nothing_is_deployed_before_there_is_somebody_who_decides(group: Group) -> None:
    with pytest.raises(Unavailable, match="decided nothing yet"):
        await group.write(lambda tx: history.begin(tx, pb.DEPLOY_KIND_APPLY, "r", ANN), OWN)


async def test_one_deploy_at_a_time_and_something_new(region: Region) -> None:
    deploy = await region.trial("one.test")
    assert (deploy.home, deploy.record.actor) == ("eu", ANN)
    with pytest.raises(FailedPrecondition, match=f"{ANN} deploys revision") as refused:
        await region.trial("two.test")
    assert refused.value.reason == "DEPLOY_RUNNING"
    assert refused.value.metadata["deploy"] == deploy.deploy_id
    await region.group.write(lambda tx: history.close(tx, deploy, pb.DEPLOY_PHASE_CONFIRMED), OWN)
    with pytest.raises(FailedPrecondition, match="is what runs"):
        await region.trial("one.test")


async def test_a_trial_is_for_its_stage_and_confirmed_for_all(region: Region) -> None:
    deploy = await region.trial("one.test")
    await region.obey()
    assert region.fleet.wanted.name == deploy.record.revision
    assert region.fleet.good.name == region.name
    await region.group.write(lambda tx: history.close(tx, deploy, pb.DEPLOY_PHASE_CONFIRMED), OWN)
    await region.obey()
    assert region.fleet.good.name == deploy.record.revision
    assert region.store.standing() == Standing(region.name, deploy.record.revision)
    region.start()
    assert region.fleet.good.name == deploy.record.revision


async def test_what_is_taken_back_is_withdrawn(region: Region) -> None:
    deploy = await region.trial("one.test")
    await region.obey()
    reason, blame = "5 of 10 calls failed", ["a.A/One (a.proto:1)"]
    closed = await region.group.write(
        lambda tx: history.close(tx, deploy, pb.DEPLOY_PHASE_ROLLED_BACK, reason, blame), OWN
    )
    await region.obey()
    assert region.fleet.wanted is region.fleet.good
    assert region.fleet.good.name == region.name
    assert (closed.record.reason, list(closed.record.blame)) == (reason, blame)
    assert closed.record.HasField("ended")


async def test_a_restart_in_a_trial_returns_to_what_is_good(region: Region) -> None:
    deploy = await region.trial("one.test")
    await region.obey()
    region.start()
    await region.obey()
    assert region.fleet.wanted is region.fleet.good
    assert region.fleet.good.name == region.name
    refused, why = region.follower.refused
    assert refused == deploy.deploy_id
    assert why == "the control plane of eu was restarted during the trial"
    # And the region that decides, which was restarted as well, ends it.
    await region.group.write(
        lambda tx: history.install(tx, region.name, region.name, OWN.actor), OWN
    )
    found = region.group.get(pb.Deploy, deploy.deploy_id)
    assert found is not None
    assert found.record.phase == pb.DEPLOY_PHASE_ROLLED_BACK
    await region.trial("two.test")


async def test_another_installation_does_not_follow(region: Region) -> None:
    await region.trial("one.test")
    region.store.stand(Standing("another", region.name))
    region.start()
    await region.obey()
    assert region.fleet.wanted is region.fleet.good


async def test_what_is_remembered_is_bounded(
    region: Region, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "REMEMBERED", 3)
    monkeypatch.setattr(history, "KEPT", 2)
    names = []
    for number in range(5):
        deploy = await region.trial(f"r{number}.test")
        names.append(deploy.record.revision)
        await region.group.write(
            lambda tx, deploy=deploy: history.close(tx, deploy, pb.DEPLOY_PHASE_CONFIRMED), OWN
        )
    found = {each.record.revision for each in region.group.list(pb.Deploy)}
    assert found <= {*names, region.name}
    assert len(region.group.list(pb.Deploy)) == 3
    kept = {each.name for each in region.group.list(pb.DeployedRevision)}
    assert names[-1] in kept
    assert len(kept) == 2
    (newest,) = [r for r in region.group.list(pb.DeployedRevision) if r.name == names[-1]]
    assert zlib.decompress(newest.contract) == region.source.image
