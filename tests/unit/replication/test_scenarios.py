"""Runs the scripts of tests/scenarios against the pure state machines.

regions NAME...              who takes part; comes first
create|write REGION KEY F=V  writes fields; a,b is a list
add|remove REGION KEY F=V    changes a set
increment REGION KEY F=N     changes a counter
delete REGION KEY
partition NAME NAME          cuts both directions, until `heal`
backup|restore NAME          keeps a copy of a region's state; sets it back
settle                       carries messages until nothing changes
check KEY F=V...|deleted     the same in every region
check equal                  digests and vectors
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from isthmus.channels.v1 import channel_pb2

from mesh.replication import Transaction
from mesh.replication.core.journal import Recovered
from tests.support.regions import Region, World

Channel = channel_pb2.Channel
SCENARIOS = sorted((Path(__file__).parents[2] / "scenarios").glob("*.txt"))


class Scenario:
    def __init__(self) -> None:
        self.cut: set[frozenset[str]] = set()
        self.backups: dict[str, tuple[Recovered, int]] = {}

    def run(self, line: str) -> None:
        verb, *words = line.split()
        getattr(self, f"do_{verb}")(*words)

    def do_regions(self, *names: str) -> None:
        self.world = World(*names)

    def do_create(self, region: str, key: str, *fields: str) -> None:
        message, _ = build(key, fields)
        self.change(region, lambda tx: tx.create(message))

    def do_write(self, region: str, key: str, *fields: str) -> None:
        message, names = build(key, fields)
        paths = {name.split(".")[0] if "assignment" in name else name for name in names}
        self.change(region, lambda tx: tx.set(message, *sorted(paths)))

    def do_add(self, region: str, key: str, field: str) -> None:
        name, values = field.split("=")
        self.change(region, lambda tx: tx.add(Channel, key, name, *values.split(",")))

    def do_remove(self, region: str, key: str, field: str) -> None:
        name, values = field.split("=")
        self.change(region, lambda tx: tx.remove(Channel, key, name, *values.split(",")))

    def do_increment(self, region: str, key: str, field: str) -> None:
        name, by = field.split("=")
        self.change(region, lambda tx: tx.increment(Channel, key, name, int(by)))

    def do_delete(self, region: str, key: str) -> None:
        self.change(region, lambda tx: tx.delete(Channel, key))

    def do_partition(self, one: str, other: str) -> None:
        self.cut.add(frozenset((one, other)))

    def do_heal(self) -> None:
        self.cut.clear()

    def do_backup(self, name: str) -> None:
        journal = self.world.regions[name].journal
        kept = Recovered(
            dict(journal.committed),
            dict(journal.vector),
            dict(journal._heads),
            journal.clock.last,
        )
        self.backups[name] = copy.copy(kept), len(self.world.regions[name].log.frames)

    def do_restore(self, name: str) -> None:
        region = self.world.regions[name]
        recovered, frames = self.backups[name]
        del region.log.frames[frames:]
        region.start(recovered, self.world.now_ms)
        for (source, target), link in self.world.links.items():
            if name in (source, target):
                link.cut()

    def do_settle(self) -> None:
        assert not self.cut, "heal before the regions can settle"
        self.world.settle()

    def do_check(self, what: str, *fields: str) -> None:
        regions = list(self.world.regions.values())
        if what == "equal":
            assert len({region.journal.digest() for region in regions}) == 1
            assert all(region.journal.vector == regions[0].journal.vector for region in regions)
            return
        for region in regions:
            self.check(region, what, fields)

    def check(self, region: Region, key: str, fields: tuple[str, ...]) -> None:
        found = region.get(key)
        if fields == ("deleted",):
            assert found is None
            return
        assert found is not None
        for field in fields:
            name, _, text = field.partition("=")
            value: Any = found
            for part in name.split("."):
                value = getattr(value, part)
            shown = ",".join(value) if name == "labels" else str(value)
            assert shown == text, f"{region.name} has {name} {shown}"

    def change(self, name: str, change: Any) -> None:
        region = self.world.regions[name]
        self.world.now_ms += 10

        def run(tx: Transaction) -> Channel:
            change(tx)
            return Channel()

        region.write(run, self.world.now_ms)
        region.commit()
        self.carry()

    def carry(self) -> None:
        for (source, target), link in self.world.links.items():
            if frozenset((source, target)) in self.cut:
                link.cut()
                continue
            if not link.open:
                link.connect()
            link.carry(self.world.now_ms)
        for region in self.world.regions.values():
            region.commit()


def build(key: str, fields: tuple[str, ...]) -> tuple[Channel, list[str]]:
    message = Channel(channel_id=key)
    names = []
    for field in fields:
        name, _, text = field.partition("=")
        *way, last = name.split(".")
        parent: Any = message
        for part in way:
            parent = getattr(parent, part)
        if last == "labels":
            parent.labels.extend(text.split(","))
        else:
            setattr(parent, last, type(getattr(parent, last))(text))
        names.append(name)
    return message, names


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_scenario(path: Path) -> None:
    scenario = Scenario()
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            try:
                scenario.run(line)
            except AssertionError as error:
                raise AssertionError(f"{path.name}:{number}: {line}: {error}") from error


def test_there_are_scenarios() -> None:
    assert len(SCENARIOS) >= 5
