"""Members of a group decided upon, over real links."""

from __future__ import annotations

from pathlib import Path

import pytest
from isthmus.channels.v1 import channel_pb2

from mesh.replication import DecisionRefused, NotAMember, NotFound, NotTheHome, WriteContext
from mesh.replication.core import decisions
from mesh.replication.core.members import State
from tests.unit.replication.test_group_links import Region, equal, regions, until

Channel = channel_pb2.Channel
OPERATOR = WriteContext(actor="operator/first")


def state(region: Region, of: str) -> State:
    return region.group.members.table.of(of).state


def has(region: Region, key: str, title: str) -> bool:
    found = region.group.get(Channel, key)
    return found is not None and found.title == title


async def test_an_evicted_region_comes_back_with_what_it_wrote_alone(tmp_path: Path) -> None:
    async with regions(tmp_path, "ap", "eu", "us") as (ap, eu, us):
        await ap.title("c1", "before")
        await until(lambda: has(us, "c1", "before"))
        await us.stop()
        await ap.group.members.decide(decisions.evict, "us", OPERATOR)
        await until(lambda: state(eu, "us") is State.EVICTED)
        us.cut_off = {"ap", "eu"}
        await us.start()
        await us.title("alone", "written while evicted")
        await us.stop()
        us.cut_off = set()
        await us.start()

        def told() -> str:
            return "".join(link.last_error for link in us.group.status().links)

        await until(lambda: "isthmus members rejoin" in told())
        assert not has(ap, "alone", "written while evicted")

        await ap.group.members.decide(decisions.rejoin, "us", OPERATOR)
        await until(lambda: state(us, "us") is State.JOINED)
        await until(lambda: equal(ap, eu, us))
        assert has(ap, "alone", "written while evicted")


async def test_what_an_evicted_region_lacks_does_not_count(tmp_path: Path) -> None:
    async with regions(tmp_path, "ap", "eu", "us") as (ap, _, us):
        assert ap.group.members.durable.regions == 3
        await us.stop()
        await ap.group.members.decide(decisions.evict, "us", OPERATOR)
        assert ap.group.members.durable.regions == 2
        position = {ap.group.journal.origin: 1}
        ap.group.members.durable.acknowledged("us", position)
        ap.group.members.durable.acknowledged("eu", position)
        assert ap.group.members.durable.holders(position) == ["ap", "eu"]
        await us.start()


async def test_a_region_leaves_once_all_others_have_what_it_has(tmp_path: Path) -> None:
    async with regions(tmp_path, "ap", "eu", "us") as (ap, eu, us):
        await us.title("c1", "by us")
        await until(lambda: has(ap, "c1", "by us") and has(eu, "c1", "by us"))
        await eu.stop()
        await ap.group.members.decide(decisions.leave, "us", OPERATOR)
        await until(lambda: state(us, "us") is State.LEAVING)
        with pytest.raises(NotAMember, match="members join us"):
            await us.title("c2", "too late")
        assert state(ap, "us") is State.LEAVING
        await eu.start()
        await until(lambda: state(eu, "us") is State.LEFT)

        await ap.group.members.decide(decisions.join, "us", OPERATOR)
        await until(lambda: state(us, "us") is State.JOINED)
        await us.title("c2", "back")
        await until(lambda: equal(ap, eu, us) and has(eu, "c2", "back"))


async def test_members_are_decided_in_the_home_alone(tmp_path: Path) -> None:
    async with regions(tmp_path, "eu", "us") as (eu, us):
        with pytest.raises(NotTheHome, match="decided in eu") as refused:
            await us.group.members.decide(decisions.evict, "eu", OPERATOR)
        assert refused.value.home == "eu"
        with pytest.raises(DecisionRefused, match="first move that"):
            await eu.group.members.decide(decisions.evict, "eu", OPERATOR)
        with pytest.raises(NotFound, match="eu, us"):
            await eu.group.members.decide(decisions.evict, "mars", OPERATOR)
        with pytest.raises(NotTheHome):
            await us.group.members.move_home("us", OPERATOR, force=False)
        await us.group.members.move_home("us", OPERATOR, force=True)
        await until(lambda: eu.group.members.table.home == "us")
        with pytest.raises(NotTheHome):
            await eu.group.members.decide(decisions.leave, "us", OPERATOR)
        assert eu.group.members.table.generation == 1
