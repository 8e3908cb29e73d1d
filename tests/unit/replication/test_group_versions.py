"""Regions on different contract versions, over real links: nothing that one knows is lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import protovalidate
import pytest
from google.protobuf.message import Message
from isthmus.channels.v1 import channel_pb2
from isthmus.replication.v1.frame_pb2 import FrameBody

from mesh.replication import Origin, Transaction, WriteContext
from mesh.replication.core import entities
from mesh.replication.core.entities import EntityKey
from mesh.replication.core.frames import StoredFrame
from mesh.replication.schema import generated_class
from tests.support.versions import EXTRA, ITEM, NEW, OLD, Version
from tests.unit.replication.test_group_links import Channel, Region, equal, regions, until

CONTEXT = WriteContext(actor="operator/first")


class Versioned(Region):
    """A region that is upgraded and downgraded."""

    version = OLD

    async def run(self, version: Version) -> None:
        """Starts, or starts again, with a version."""
        if self.starts:
            await self.stop()
        self.version = version
        self.contract, self.known = version.contract, version.known
        await self.start()

    def class_of(self, name: str) -> type[Message]:
        return self.version.classes.get(name) or generated_class(name)

    async def change(self, change) -> None:
        def changed(tx: Transaction) -> Message:
            change(tx)
            return self.version.item()

        await self.group.write(changed, CONTEXT)

    @property
    def item(self) -> Message:
        found = self.group.get(self.version.classes[ITEM], "i")
        assert found is not None
        return found

    async def write(self, step: int) -> None:
        """A write as this region's version makes it: first of all, the whole of what it knows."""
        item = self.version.classes[ITEM]
        whole = self.version.item(id="i", title=f"{self.name}{step}")
        if self.version is OLD:
            whole.retired, whole.size.width = f"r{step}", step
            await self.change(lambda tx: tx.set(whole, "title", "retired", "size"))
        else:
            whole.grade, whole.note, whole.size.height = step, f"{self.name}{step}", step
            await self.change(lambda tx: tx.set(whole, "title", "grade", "note", "size.height"))
            await self.change(lambda tx: tx.add(item, "i", "tags", f"{self.name}{step}"))
            extra = self.version.classes[EXTRA](id=f"{self.name}{step}", title="extra")
            await self.change(lambda tx: tx.create(extra))
        await self.change(lambda tx: tx.increment(item, "i", "count"))


def caught_up(regions: Iterable[Region]) -> bool:
    first, *others = (region.group.journal.vector for region in regions)
    return all(vector == first for vector in others)


def all_linked(regions: Iterable[Region]) -> bool:
    links = [link for region in regions for link in region.group.status().links]
    return all(link.connected and not link.last_error for link in links)


def canonical(region: Region) -> dict[EntityKey, bytes]:
    """The bytes of what a region's version can read."""
    return {
        entity: entities.encode(
            state._replace(cells={k: c for k, c in state.cells.items() if k[1] > 0})
        )
        for entity, state in region.group.journal.committed.items()
    }


@asynccontextmanager
async def rolling(root: Path, *names: str) -> AsyncIterator[list[Versioned]]:
    regions = [Versioned(name, root, tuple(n for n in names if n != name)) for name in names]
    try:
        for region in regions:
            await region.run(OLD)
        await regions[0].change(lambda tx: tx.create(OLD.item(id="i", title="first", grade=7)))
        await until(lambda: caught_up(regions))
        yield regions
    finally:
        await asyncio.gather(*(region.stop() for region in regions))


async def test_a_rolling_upgrade_and_downgrade_lose_nothing(tmp_path: Path) -> None:
    async with rolling(tmp_path, "ap", "eu", "us") as regions:
        step = 0
        tags: set[str] = set()

        async def writes() -> None:
            nonlocal step
            for region in regions:
                step += 1
                await region.write(step)
                tags.update({f"{region.name}{step}"} if region.version is NEW else ())
            # One region's sees the other's of before, or not: some of these are concurrent.
            await until(lambda: caught_up(regions))
            assert len({region.item.title for region in regions}) == 1
            assert len({region.item.size.width for region in regions}) == 1
            assert {region.item.count for region in regions} == {step}
            for region in regions:
                if region.version is NEW:
                    assert set(region.item.tags) == tags
                    extras = region.group.list(NEW.classes[EXTRA])
                    assert {extra.id for extra in extras} == tags
            await until(lambda: all_linked(regions))

        for region in regions:
            await region.run(NEW)
            await writes()
        await until(lambda: equal(*regions))
        assert canonical(regions[0]) == canonical(regions[1]) == canonical(regions[2])
        assert not any(region.group.status().parked for region in regions)
        versions = regions[0].group.versions(NEW.classes[ITEM], "i", "note")

        for region in regions:
            await region.run(OLD)
            await writes()
        assert canonical(regions[0]) == canonical(regions[1]) == canonical(regions[2])
        for region in regions:
            status = region.group.status()
            (parked,) = status.parked
            assert (parked.type, parked.field, parked.rule) == (ITEM, "7", 10)
            assert status.entities == 1 + len(tags)
            assert status.entities_of_unknown_types == len(tags)
            assert (region.item.retired, region.item.grade) == (f"r{step}", 7)

        # Whoever knows it finds all of it: also what was parked where it came, or on the way back.
        for region in regions:
            await region.run(NEW)
        await until(lambda: equal(*regions))
        assert canonical(regions[0]) == canonical(regions[1]) == canonical(regions[2])
        assert regions[1].group.versions(NEW.classes[ITEM], "i", "note") != versions
        for region in regions:
            assert region.item.grade > 7 and region.item.size.height > 0
            assert set(region.item.tags) == tags
            assert not region.group.status().parked


async def test_rules_of_values_stop_no_apply(tmp_path: Path) -> None:
    """What a region accepted that had no rule yet is applied and read where there is one."""
    async with regions(tmp_path, "eu", "us") as (eu, us):
        wide = Channel(channel_id="c1", profile=channel_pb2.Profile(width=9999))
        assert protovalidate.Validator().collect_violations(wide)

        def create(tx: Transaction) -> Channel:
            tx.create(wide)
            return wide

        await eu.group.write(create, CONTEXT)
        await until(lambda: equal(eu, us))
        assert us.group.get(Channel, "c1") == wide
        await us.title("c1", "as before")
        await until(lambda: equal(eu, us))
        assert eu.group.get(Channel, "c1").profile.width == 9999


async def test_a_frame_of_an_unknown_format_waits_in_sight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with rolling(tmp_path, "eu", "us") as (eu, us):
        real = eu.group.tail.after

        def newer(origin: Origin, sequence: int, most: int) -> list[StoredFrame]:
            found = []
            for stored in real(origin, sequence, most):
                body = FrameBody.FromString(stored.body)
                body.format = 2
                found.append(stored._replace(body=body.SerializeToString()))
            return found

        monkeypatch.setattr(eu.group.tail, "after", newer)
        await eu.change(lambda tx: tx.increment(OLD.classes[ITEM], "i", "count"))

        def error() -> str:
            return us.group.status().links[0].last_error

        await until(lambda: "at 2 has format 2; this version reads 1; upgrade" in error())
        # It is tried again, and is in sight while the link is up, too.
        monkeypatch.setattr("mesh.replication.links._FAULT_SECONDS", 0.1)
        await until(lambda: us.group.status().links[0].connected)
        assert "has format 2" in error()
        assert us.group.status().links[0].lag_changes == 1
        monkeypatch.undo()
        await until(lambda: equal(eu, us))
        assert not error()


async def test_what_is_parked_is_in_sight(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with rolling(tmp_path, "eu", "us") as (eu, us):
        await us.run(NEW)
        with caplog.at_level(logging.WARNING, logger="isthmus.replication"):
            for step in (1, 2, 3):
                await us.write(step)
            await until(lambda: caught_up((eu, us)))
        (parked,) = eu.group.status().parked
        assert (parked.changes, parked.entities, parked.entity) == (3, 1, "i")
        assert 0 <= eu.group.now_ms() - parked.since.ToMilliseconds() < 60_000
        assert [r.getMessage() for r in caplog.records if "parked" in r.getMessage()] == [
            f"group rolling: changes of {ITEM} 7 are parked until this region runs a version that "
            "reads merge rule 10: first of 'i'"
        ]
        # Their digests differ, and both know why.
        assert eu.group.journal.digest() != us.group.journal.digest()
        await until(lambda: all(r.group.status().pairs[0].parked for r in (eu, us)))
        await until(lambda: all(r.group.status().pairs[0].ranges_compared for r in (eu, us)))
        assert not any(r.group.status().integrity.found for r in (eu, us))
        await us.change(lambda tx: tx.delete(NEW.classes[ITEM], "i"))
        await until(lambda: equal(eu, us))
        assert not eu.group.status().parked  # a delete ended it
        await until(lambda: not any(r.group.status().pairs[0].parked for r in (eu, us)))
