"""Which region decides on deploys: given away, taken from one that is lost, and fenced."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from isthmus.mesh.v1 import rollout_pb2 as pb

from mesh.contracts.read import load
from mesh.control import history
from mesh.control.follower import MESH
from mesh.replication import NotHome, WriteContext
from mesh.runtime.errors import FailedPrecondition
from tests.unit.replication.test_group_links import Region, equal, regions, until

ANN = WriteContext(actor="spiffe://isthmus.test/operator/ann")


@asynccontextmanager
async def deciding(root: Path) -> AsyncIterator[list[Region]]:
    """Three regions; the first has installed what they run, and decides."""
    contract = load()
    only = replace(contract, group_digests={"mesh": contract.group_digests["mesh"]})
    async with regions(root, "eu", "us", "ap", of=only) as found:
        first = found[0].group
        await first.write(lambda tx: history.install(tx, "one", "one", ANN.actor), ANN)
        await until(lambda: all(home(each) == "eu" for each in found))
        yield found


def home(region: Region) -> str:
    rollout = region.group.get(pb.Rollout, MESH)
    return "" if rollout is None else rollout.home


async def begin(region: Region, revision: str) -> pb.Deploy:
    return await region.group.write(
        lambda tx: history.begin(tx, pb.DEPLOY_KIND_APPLY, revision, ANN.actor), ANN
    )


async def test_decisions_are_given_away_between_deploys(tmp_path: Path) -> None:
    async with deciding(tmp_path) as (eu, us, ap):
        deploy = await begin(eu, "two")
        with pytest.raises(FailedPrecondition, match="deploys revision two"):
            await eu.group.write(lambda tx: history.move_home(tx, "us"), ANN)
        await eu.group.write(
            lambda tx: history.close(tx, deploy, pb.DEPLOY_PHASE_CONFIRMED, "", ()), ANN
        )
        given = await eu.group.write(lambda tx: history.move_home(tx, "us"), ANN)
        assert (given.home, given.state.good) == ("us", "two")
        with pytest.raises(NotHome):
            await begin(eu, "three")
        await until(lambda: home(us) == "us")
        next_ = await begin(us, "three")
        # Whoever decides ends, and forgets in the end, what was decided before.
        assert {each.home for each in us.group.list(pb.Deploy)} == {"us"}
        await us.group.write(
            lambda tx: history.close(tx, next_, pb.DEPLOY_PHASE_REFUSED, "a fault", ()), ANN
        )
        await until(lambda: equal(eu, us, ap))


async def test_decisions_are_taken_from_who_is_lost_and_its_own_are_fenced(tmp_path: Path) -> None:
    async with deciding(tmp_path) as (eu, us, ap):
        deploy = await begin(eu, "two")
        await until(lambda: us.group.get(pb.Deploy, deploy.deploy_id) is not None)
        await eu.stop()
        eu.cut_off = {"us", "ap"}
        await eu.start()
        for other in (us, ap):
            other.cut_off = {"eu"}
            await other.stop()
            await other.start()

        taken = await us.group.write(lambda tx: history.take_home(tx, "us"), ANN)
        assert (taken.home, taken.state.good, taken.state.deploy_id) == ("us", "one", "")
        ended = us.group.get(pb.Deploy, deploy.deploy_id)
        assert ended is not None
        assert ended.record.phase == pb.DEPLOY_PHASE_ROLLED_BACK
        assert ended.record.reason == "us has taken the decisions from eu"
        # What it decides alone is of no effect once they hear one another.
        await eu.group.write(
            lambda tx: history.close(tx, deploy, pb.DEPLOY_PHASE_CONFIRMED, "", ()), ANN
        )
        assert (await us.group.write(lambda tx: history.take_home(tx, "us"), ANN)).home == "us"
        for each in (eu, us, ap):
            each.cut_off = set()
            await each.stop()
            await each.start()
        await until(lambda: equal(eu, us, ap))
        for each in (eu, us, ap):
            rollout = each.group.get(pb.Rollout, MESH)
            assert rollout is not None
            assert (rollout.home, rollout.state.good) == ("us", "one")
            found = each.group.get(pb.Deploy, deploy.deploy_id)
            assert found is not None
            assert found.record.phase == pb.DEPLOY_PHASE_ROLLED_BACK
