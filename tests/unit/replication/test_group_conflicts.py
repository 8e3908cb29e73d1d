"""What services see of conflicts: standing values, what was decided, and as it comes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mesh.replication import Batch, Group, Snapshot, Transaction
from tests.support.merging import CONTRACT, THING, Thing
from tests.support.regions import FIRST_OPERATOR


async def open_group(folder: Path) -> Group:
    return await Group.open(
        CONTRACT, "things", region="eu", peers=["eu"], folder=folder, class_of=lambda name: Thing
    )


async def write(group: Group, change: Callable[[Transaction], object]) -> None:
    def run(tx: Transaction) -> object:
        change(tx)
        return Thing()

    await group.write(run, FIRST_OPERATOR)


async def test_a_conflict_is_seen_kept_and_resolved(tmp_path: Path) -> None:
    group = await open_group(tmp_path)
    await write(group, lambda tx: tx.create(Thing(id="t", note="one")))
    etag = group.etag(Thing, "t")
    events = group.watch()
    assert isinstance(await anext(events), Snapshot)
    await write(group, lambda tx: tx.set(Thing(id="t", note="two"), "note"))
    await write(group, lambda tx: tx.set(Thing(id="t", note="three"), "note", etag=etag))
    quiet, noted = await anext(events), await anext(events)
    assert isinstance(quiet, Batch) and quiet.conflicts == ()
    assert isinstance(noted, Batch)
    (conflict,) = noted.conflicts
    assert (conflict.type, conflict.key, conflict.field) == (THING, "t", "note")
    assert conflict.rule == "KEEP_BOTH"
    assert (conflict.read.message.note, conflict.other.message.note) == ("three", "two")
    assert conflict.read.origin == group.journal.origin
    assert [value.message.note for value in group.versions(Thing, "t", "note")] == ["three", "two"]
    await events.aclose()
    await group.close()

    group = await open_group(tmp_path)
    assert group.conflicts(Thing, "t") == group.conflicts() == [conflict]
    assert group.conflicts(Thing, "other") == []
    await write(group, lambda tx: tx.set(Thing(id="t", note="four"), "note"))
    assert [value.message.note for value in group.versions(Thing, "t", "note")] == ["four"]
    assert group.versions(Thing, "other", "note") == []
    assert group.etag(Thing, "other") is None
    await group.close()
