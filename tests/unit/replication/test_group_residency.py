"""HOME_REGION values leave their region by no way: groups over real gRPC, every byte looked at."""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from google.protobuf.message import Message

from mesh.contracts.model import Contract, Durability
from mesh.replication import (
    Batch,
    OperationUnknown,
    ReachChanged,
    ResidentDurability,
    Snapshot,
    Transaction,
    WriteContext,
    follow_feed,
)
from tests.support.capture import Wire, files, forms, found_in
from tests.support.homes import PERSON, Person, class_of, contract
from tests.unit.replication.test_group_links import FIRST_OPERATOR, Region, equal, until

VALUE = secrets.token_bytes(32)
KEPT = WriteContext(
    "operator/first", request_id="r1", method="/persons/Put", request_digest=b"digest of request"
)


class Resident(Region):
    """A region whose links go through wires that keep a copy."""

    def __init__(self, name: str, root: Path, peers: tuple[str, ...], of: Contract) -> None:
        super().__init__(name, root, peers, of)
        self.wires: dict[str, Wire] = {}

    def class_of(self, name: str) -> type[Message]:
        return class_of(name)

    async def start(self) -> None:
        for peer in self.peers:
            if peer not in self.wires:
                socket = self.root / f"{self.name}-to-{peer}.sock"
                self.wires[peer] = Wire(socket, self.root / f"{peer}-for-{self.name}.sock")
                await self.wires[peer].start()
        await super().start()

    def dial(self, peer: str) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(
            f"unix:{self.root / f'{self.name}-to-{peer}.sock'}",
            options=[("grpc.max_reconnect_backoff_ms", 200)],
        )

    async def change(
        self, act: Callable[[Transaction], object], context: WriteContext = FIRST_OPERATOR
    ) -> Message:
        def change(tx: Transaction) -> Message:
            act(tx)
            return tx.get(Person, "p") or Person()

        return await self.group.write(change, context)

    def get(self) -> Message:
        found = self.group.get(Person, "p")
        assert found is not None
        return found


@asynccontextmanager
async def two(root: Path, of: Contract | None = None) -> AsyncIterator[tuple[Resident, Resident]]:
    eu, us = (Resident(a, root, (b,), of or contract()) for a, b in (("eu", "us"), ("us", "eu")))
    try:
        await eu.start()
        await us.start()
        yield eu, us
    finally:
        for region in (eu, us):
            await region.stop()
            for wire in region.wires.values():
                await wire.stop()


async def linked(*regions: Resident) -> None:
    """Both ways, so that there is something on each wire."""
    for region in regions:
        await until(lambda r=region: all(link.connected for link in r.group.status().links))


def nowhere(caplog: pytest.LogCaptureFixture, eu: Resident, us: Resident) -> None:
    """The value went over no wire, lies on no disk of the peer's, and is in no log or status."""
    for region in (eu, us):
        (wire,) = region.wires.values()
        assert wire.copy, "nothing went over the wire: it is not watched"
        assert not found_in(bytes(wire.copy), VALUE)
        assert not found_in(region.group.status().SerializeToString(), VALUE)
    assert not found_in(files(us.root / "us"), VALUE)
    assert VALUE in files(eu.root / "eu")
    log = "\n".join(repr(record.__dict__) for record in caplog.records)
    assert not found_in(log.encode(), VALUE)


def person(**fields: object) -> Message:
    return Person(id="p", **fields)


@pytest.fixture(autouse=True)
def every_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)


async def test_the_search_finds_what_is_sent(tmp_path: Path) -> None:
    async with two(tmp_path) as (eu, us):
        title = VALUE.hex()
        await eu.change(lambda tx: tx.create(person(title=title)), KEPT)
        await until(lambda: equal(eu, us))
        (wire,) = us.wires.values()
        assert found_in(bytes(wire.copy), VALUE) == ["the value in hex"]
        assert found_in(files(tmp_path / "us"), VALUE) == ["the value in hex"]
    for _, form in forms(VALUE):
        assert found_in(b"before" + form + b"after", VALUE)


async def test_a_value_that_stays_is_sent_by_no_way(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with two(tmp_path) as (eu, us):
        papers = Person.Papers(kind="old", passport=VALUE)
        made = person(title="t", pin=VALUE, doctors=[VALUE.hex()], fines=7, papers=papers)
        await eu.change(lambda tx: tx.create(made), KEPT)
        await until(lambda: equal(eu, us))
        seen = us.get()
        assert (seen.home, seen.title, seen.papers.kind) == ("eu", "t", "old")
        assert not (seen.pin or seen.doctors or seen.fines or seen.papers.passport)
        here = eu.get()
        assert (here.pin, here.papers.passport, here.fines) == (VALUE, VALUE, 7)
        assert list(here.doctors) == [VALUE.hex()]
        # Together with another field and alone, before and after restarts.
        await eu.change(lambda tx: tx.set(person(title="u", pin=VALUE[::-1]), "title", "pin"))
        await eu.stop()
        await eu.start()
        assert (eu.get().title, eu.get().pin) == ("u", VALUE[::-1])
        await eu.change(lambda tx: tx.set(person(pin=VALUE), "pin"))
        await us.stop()
        await us.start()
        await eu.change(lambda tx: tx.increment(Person, "p", "visits"))
        await until(lambda: equal(eu, us) and us.get().visits == 1)
        assert (eu.get().pin, us.get().pin) == (VALUE, b"")
        await linked(eu, us)
        nowhere(caplog, eu, us)
        # What a reader takes along names the elements of a set, and holds none.
        etag = eu.group.etag(Person, "p")
        assert etag is not None and not found_in(etag, VALUE)
        assert not found_in(repr(eu.group.get_view(Person, "p")).encode(), VALUE)
        await eu.change(lambda tx: tx.add(Person, "p", "doctors", "later"))
        await eu.change(
            lambda tx: tx.remove(Person, "p", "doctors", VALUE.hex(), "later", etag=etag)
        )
        assert list(eu.get().doctors) == ["later"]


async def test_a_write_of_such_values_alone_leaves_no_trace_elsewhere(tmp_path: Path) -> None:
    async with two(tmp_path) as (eu, us):
        await eu.change(lambda tx: tx.create(person(title="t")))
        await until(lambda: equal(eu, us))
        before = dict(eu.group.journal.vector), eu.group.journal.digest()
        events = eu.group.watch([Person])
        assert isinstance(await anext(events), Snapshot)
        await eu.change(lambda tx: tx.set(person(pin=VALUE), "pin"), KEPT)
        assert (dict(eu.group.journal.vector), eu.group.journal.digest()) == before
        # Whether the peer is within reach may be told first.
        event = await anext(each async for each in events if not isinstance(each, ReachChanged))
        assert isinstance(event, Batch)
        (change,) = event.changes
        assert change.old is not None
        assert (change.old.message, change.new.message) == (
            person(home="eu", title="t"),
            person(home="eu", title="t", pin=VALUE),
        )
        await events.aclose()


async def test_other_workloads_are_fed_what_every_region_has(tmp_path: Path) -> None:
    async with two(tmp_path) as (eu, _):
        await eu.change(lambda tx: tx.create(person(title="t", pin=VALUE)))
        channel = grpc.aio.insecure_channel(f"unix:{tmp_path / 'eu-for-feeds.sock'}")
        events = follow_feed(channel, [Person])
        try:
            snapshot = await anext(events)
            assert isinstance(snapshot, Snapshot)
            assert [view.message for view in snapshot.entities] == [person(home="eu", title="t")]
        finally:
            await events.aclose()
            await channel.close()


async def test_a_result_stays_as_well(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with two(tmp_path) as (eu, us):
        made = await eu.change(lambda tx: tx.create(person(title="t", pin=VALUE)), KEPT)
        assert made.pin == VALUE
        await until(lambda: equal(eu, us))
        assert await eu.change(lambda tx: tx.delete(Person, "p"), KEPT) == made
        with pytest.raises(OperationUnknown, match="its result stays there"):
            await us.change(lambda tx: tx.delete(Person, "p"), KEPT)
        assert us.get().title == "t"
        # What a snapshot would hold of it.
        (receipt,) = eu.group.log.receipts(("", "", ""), 1 << 20, 1 << 60)
        assert (receipt.request_id, receipt.digest, receipt.response) == ("r1", b"", b"")
        await linked(eu, us)
        nowhere(caplog, eu, us)
        (wire,) = us.wires.values()
        assert KEPT.request_digest not in bytes(wire.copy)


async def test_durability_elsewhere_is_refused_for_what_stays(tmp_path: Path) -> None:
    async with two(tmp_path) as (eu, _):
        everywhere = WriteContext("operator/first", durability=Durability.ONE_PEER)
        await eu.change(lambda tx: tx.create(person(title="t")), everywhere)
        with pytest.raises(ResidentDurability, match="one peer"):
            await eu.change(lambda tx: tx.set(person(title="u", pin=VALUE)), everywhere)
        assert (eu.get().title, eu.get().pin) == ("t", b"")


async def test_a_delete_ends_what_stays(tmp_path: Path) -> None:
    async with two(tmp_path) as (eu, us):
        await eu.change(lambda tx: tx.create(person(title="t", pin=VALUE)))
        await eu.change(lambda tx: tx.delete(Person, "p"))
        await eu.change(lambda tx: tx.create(person(title="u")))
        assert (eu.get().title, eu.get().pin) == ("u", b"")
        assert not eu.group.journal.residents.committed
        await eu.change(lambda tx: tx.set(person(pin=VALUE), "pin"))
        await until(lambda: equal(eu, us))
        # Also when another region does it, which has become the home.
        await us.change(lambda tx: tx.move_home(Person, "p", "us", take=True))
        await us.change(lambda tx: tx.delete(Person, "p"))
        await until(lambda: equal(eu, us))
        assert not eu.group.journal.residents.committed


async def test_what_stays_ends_with_the_repair_of_what_was_deleted(tmp_path: Path) -> None:
    entity = (PERSON, "p")
    async with two(tmp_path) as (eu, us):
        await eu.change(lambda tx: tx.create(person(title="t", pin=VALUE)))
        await until(lambda: equal(eu, us))
        await us.change(lambda tx: tx.move_home(Person, "p", "us", take=True))
        await until(lambda: equal(eu, us))
        integrity = eu.group.journal.integrity
        await until(lambda: integrity.digest.kept(entity) is not None)
        # By its bytes in memory it is of a later life now, which the delete does not end.
        state = eu.group.journal.committed[entity]
        eu.group.journal.committed[entity] = state._replace(generation=state.generation << 1)
        await us.change(lambda tx: tx.delete(Person, "p"))
        await until(lambda: integrity.damages.repaired == 1)
        # Nobody writes here any more.
        await until(lambda: not eu.group.journal.residents.committed)
        assert eu.group.get(Person, "p") is None
        await eu.stop()
        await eu.start()
        assert not eu.group.journal.residents.committed


OLDER = {
    "that does not know the fields": contract("pin", "doctors", "fines", "papers"),
    "without homes that does not know the fields": contract(
        "home", "pin", "doctors", "fines", "papers"
    ),
    "that sends the fields everywhere": contract(everywhere=True),
}


@pytest.mark.parametrize("older", OLDER.values(), ids=OLDER)
async def test_it_stays_also_after_the_home_was_rolled_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, older: Contract
) -> None:
    async with two(tmp_path) as (eu, us):
        papers = Person.Papers(kind="old", passport=VALUE)
        await eu.change(lambda tx: tx.create(person(title="t", pin=VALUE, papers=papers)))
        await until(lambda: equal(eu, us))
        for region in (eu, us):
            await region.stop()
            region.contract = older
            await region.start()
        fields = {field.name for field in older.entities[PERSON].fields}
        again = person(title="u", pin=VALUE, papers=papers, doctors=[VALUE.hex()])

        def write(tx: Transaction) -> None:
            tx.set(again)
            if "doctors" in fields:
                tx.add(Person, "p", "doctors", VALUE.hex())
            other = Person.FromString(again.SerializeToString())
            other.id = "q"
            tx.create(other)

        answered = await eu.change(write, KEPT)
        assert answered.title == "u"
        await until(lambda: equal(eu, us))
        assert (us.get().title, us.get().pin) == ("u", b"")
        assert eu.get().pin == (VALUE if "pin" in fields else b"")
        await linked(eu, us)
        nowhere(caplog, eu, us)
        receipts = eu.group.log.receipts(("", "", ""), 1 << 20, 1 << 60)
        assert receipts and not any(each.response for each in receipts)
        # And when it comes forward again nothing is lost.
        for region in (eu, us):
            await region.stop()
            region.contract = contract()
            await region.start()
        assert (eu.get().pin, eu.get().papers.passport) == (VALUE, VALUE)
        await eu.change(lambda tx: tx.increment(Person, "p", "visits"))
        await until(lambda: equal(eu, us) and us.get().visits == 1)
        await linked(eu, us)
        nowhere(caplog, eu, us)
