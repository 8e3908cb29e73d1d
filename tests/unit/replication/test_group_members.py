"""Members of a group decided upon, over real links."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from isthmus.channels.v1 import channel_pb2
from isthmus.replication.v1 import members_pb2

from mesh.replication import (
    DecisionRefused,
    Limits,
    NotAMember,
    NotFound,
    NotTheHome,
    WriteContext,
)
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
        await us.title("c1", "what eu has not")
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


async def test_who_left_and_wrote_all_the_same_is_not_left_alone_with_it(tmp_path: Path) -> None:
    async with regions(tmp_path, "ap", "eu", "us") as (ap, eu, us):
        await us.title("c1", "by us")
        await ap.group.members.decide(decisions.leave, "us", OPERATOR)
        await until(lambda: state(eu, "us") is State.LEFT)
        await us.stop()
        shutil.rmtree(tmp_path / "us")  # and with it the word that it left
        await us.start()
        await us.title("alone", "knows nothing of having left")
        await until(lambda: state(eu, "us") is State.EVICTED)
        with pytest.raises(DecisionRefused, match="members rejoin us"):
            await ap.group.members.decide(decisions.join, "us", OPERATOR)

        await ap.group.members.decide(decisions.rejoin, "us", OPERATOR)
        await until(lambda: state(us, "us") is State.JOINED)
        await until(lambda: equal(ap, eu, us))
        assert has(eu, "alone", "knows nothing of having left")


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
        # Whoever takes it by force has decided in its present life: nothing lost stands above that.
        assert eu.group.members.table.incarnation == us.group.journal.origin.incarnation


async def test_two_processes_under_one_name_are_told_and_lose_nothing(tmp_path: Path) -> None:
    async with regions(tmp_path, "eu", "us") as (eu, us):
        await us.title("c1", "first")
        await until(lambda: has(eu, "c1", "first"))
        await us.stop()
        copied = tmp_path / "copy"
        shutil.copytree(tmp_path / "us", copied / "us")
        await us.start()
        await until(lambda: any(link.connected for link in eu.group.status().links))
        # A copy of the store, brought up beside the region; it finds the same peer.
        (copied / "eu-for-us.sock").symlink_to((tmp_path / "eu-for-us.sock").resolve())
        twin = Region("us", copied, ("eu",))
        await twin.start()
        await until(lambda: "stop one of the two" in twin.group.status().links[0].last_error)
        await twin.title("twin", "by the copy")
        await us.title("own", "by the region")
        await until(lambda: has(eu, "own", "by the region"))
        assert twin.group.journal.origin != us.group.journal.origin
        assert not has(eu, "twin", "by the copy")

        await us.stop()
        way = tmp_path / "us-for-eu.sock"
        way.unlink()
        way.symlink_to((copied / "us-for-eu.sock").resolve())
        await until(lambda: has(eu, "twin", "by the copy"))
        await twin.stop()
        await us.start()
        await until(lambda: has(us, "twin", "by the copy"))
        assert has(us, "own", "by the region")


async def test_a_silent_member_is_marked_and_never_evicted_by_itself(tmp_path: Path) -> None:
    async with regions(tmp_path, "eu", "us") as (eu, us):
        members = eu.group.members
        await until(lambda: bool(members.durable.words()))
        members._limits = Limits(silent_ms=1500, held_bytes=1000)

        def marks() -> list[int]:
            found = {each.member.region: each for each in members.status().members}
            return list(found["us"].marks)

        assert not marks()
        await us.stop()
        await until(lambda: marks() == [members_pb2.MEMBER_MARK_SILENT])
        members._limits = Limits(held_bytes=1000)
        members.mark({"us": 1000})
        assert not marks()
        members.mark({"us": 1001})
        assert marks() == [members_pb2.MEMBER_MARK_HOLDS_JOURNAL]
        assert state(eu, "us") is State.JOINED
        await members.decide(decisions.evict, "us", OPERATOR)
        await until(lambda: not marks())
        await us.start()


async def test_a_region_that_lost_its_disk_says_so_and_fetches_all(tmp_path: Path) -> None:
    async with regions(tmp_path, "eu", "us") as (eu, us):
        await us.title("c1", "by us")
        await until(lambda: has(eu, "c1", "by us"))
        await us.stop()
        shutil.move(tmp_path / "us", tmp_path / "lost")
        await us.start()
        await until(lambda: has(us, "c1", "by us"))
        found = {each.member.region: each for each in us.group.members.status().members}["us"]
        assert found.start == members_pb2.LIFE_START_EMPTY_STORE
        assert [(life.recovered, life.sequence) for life in found.lives] == [(0, 1)]
        await us.title("c1", "again")
        await until(lambda: has(eu, "c1", "again"))
