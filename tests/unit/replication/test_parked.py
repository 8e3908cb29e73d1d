"""What a version cannot read waits in its store, and is done by the version that can."""

from __future__ import annotations

from pathlib import Path

import pytest
from isthmus.channels.v1 import channel_pb2
from isthmus.replication.v1 import frame_pb2
from isthmus.replication.v1.digest_pb2 import PairStatus
from isthmus.replication.v1.snapshot_pb2 import SnapshotPiece, SnapshotStart

from mesh.replication.core import entities, rendering, shapes
from mesh.replication.core.answers import Answers
from mesh.replication.core.batches import Recovered
from mesh.replication.core.cells import COUNTER, LATEST, MAX, SET
from mesh.replication.core.clocks import Origin, vector_from_proto
from mesh.replication.core.entities import CREATE, Changed, EntityState, Stamp
from mesh.replication.core.errors import FormatUnknown
from mesh.replication.core.frames import chain, parse
from mesh.replication.core.journal import Journal
from mesh.replication.core.parked import KINDS, KNOWN, NO_TYPE, Known
from mesh.replication.core.receiving import PeerView, Receiver
from mesh.replication.core.rules.parked import Kept
from mesh.replication.core.sending import Sender
from mesh.replication.store.sqlite import SqliteStore
from tests.support.regions import CHANNEL, MemoryLog, Region, receive
from tests.support.signing import MemorySigning, keyring

Channel = channel_pb2.Channel
OLDER = Known(KNOWN.rules - {SET}, KNOWN.kinds - {entities.DELETE})
"""A version that knows no SET and no delete."""

C1 = (CHANNEL, "c1")


class Keeper:
    """A region that keeps what it is sent, in a real store."""

    def __init__(self, folder: Path, known: Known) -> None:
        self.folder = folder
        self.open(known)

    def open(self, known: Known) -> None:
        self.store = SqliteStore(self.folder, "channels", "us", b"digest", (), known)
        self.recovered = self.store.recover()
        self.journal = Journal("us", ["eu"], b"digest", self.recovered, 1, 0, known=known)

    def upgrade(self, known: Known = KNOWN, *, flushed: bool) -> None:
        if flushed:
            self.store.flush(self.journal.committed, self.journal.vector)
        self.store.close()
        self.open(known)

    def take(self, region: Region) -> None:
        """All that a region wrote."""
        for frame in region.log.frames:
            receive(self.journal, frame.body, frame.hash, 1_000_000, frame.signature)
        while (batch := self.journal.next_batch()) is not None:
            self.store.commit(batch)
            self.journal.stored(batch)

    def stored(self) -> dict[tuple[str, str], bytes]:
        rows = self.store._database.reader.execute("SELECT type, key, state FROM states")
        return {(row[0], row[1]): row[2] for row in rows}


def write(region: Region, *changes) -> None:
    for change in changes:
        region.write(lambda tx, do=change: do(tx) or Channel(), 0)
        region.commit()


@pytest.fixture
def eu() -> Region:
    region = Region("eu", ["us"])
    write(
        region,
        lambda tx: tx.create(Channel(channel_id="c1", title="one", labels=["a"])),
        lambda tx: tx.create(Channel(channel_id="c2", title="two")),
        lambda tx: tx.add(Channel, "c1", "labels", "b"),
        lambda tx: tx.remove(Channel, "c1", "labels", "a"),
        lambda tx: tx.delete(Channel, "c2"),
        lambda tx: tx.increment(Channel, "c1", "takeovers"),
    )
    return region


@pytest.mark.parametrize("flushed", [True, False])
def test_an_upgrade_does_what_was_parked(eu: Region, tmp_path: Path, flushed: bool) -> None:
    us = Keeper(tmp_path, OLDER)
    us.take(eu)
    assert us.journal.vector == eu.journal.vector
    assert us.journal.committed != eu.journal.committed
    assert not us.journal.reads_all
    rule, kind = sorted(us.journal.unread(), key=lambda each: each.kind)
    assert rule[:-1] == (CHANNEL, b"\x0a", SET, 0, 3, 1, "c1")
    assert kind[:-1] == (CHANNEL, b"", 0, entities.DELETE, 1, 1, "c2")

    us.upgrade(OLDER, flushed=flushed)  # a restart changes nothing
    assert len(us.journal.unread()) == 2

    us.upgrade(flushed=flushed)
    assert us.journal.committed == eu.journal.committed
    assert us.journal.digest() == eu.journal.digest()
    assert us.journal.reads_all and not us.journal.unread()
    # What is stored is so too, once it is flushed.
    us.store.flush({e: us.journal.committed[e] for e in us.recovered.replayed})
    encoded = {e: entities.encode(state) for e, state in eu.journal.committed.items()}
    assert us.stored() == encoded
    us.store.close()


def test_a_downgrade_keeps_what_was_merged(eu: Region, tmp_path: Path) -> None:
    us = Keeper(tmp_path, KNOWN)
    us.take(eu)
    us.upgrade(OLDER, flushed=True)
    assert not us.journal.reads_all
    assert us.journal.committed[C1].cells[b"\x0a", -SET].states
    write(eu, lambda tx: tx.add(Channel, "c1", "labels", "late"))
    us.take(eu)
    us.upgrade(flushed=True)
    assert us.journal.committed == eu.journal.committed
    us.store.close()


def test_causality_goes_on_past_what_is_parked(eu: Region, tmp_path: Path) -> None:
    ap, us = Region("ap", ["eu", "us"]), Keeper(tmp_path, OLDER)
    for frame in eu.log.frames:
        receive(ap.journal, frame.body, frame.hash, 1_000_000)
        ap.commit()
    write(ap, lambda tx: tx.set(Channel(channel_id="c1", title="after"), "title"))
    (depends,) = [frame for frame in ap.log.frames if frame.origin == ap.journal.origin]
    receive(us.journal, depends.body, depends.hash, 1_000_000)
    us.take(eu)
    assert us.journal.vector == ap.journal.vector
    assert us.journal.committed[C1].cells[b"\x02", LATEST][3] == b"\x12\x05after"
    stored = us.store.after(eu.journal.origin, 0, 1 << 20)
    assert [f.body for f in stored] == [f.body for f in eu.log.frames]  # to be passed on
    us.store.close()


def test_what_no_version_can_read_stays_where_it_is() -> None:
    stamps = [Stamp(clock, "eu", 1) for clock in (1, 2)]
    state = EntityState(
        1,
        False,
        stamps[0],
        Changed(*stamps[1], "a"),
        {(b"\x09", -COUNTER): Kept(deltas={stamps[0]: b"\xff", stamps[1]: b"\x02\x00"})},
    )
    data = entities.encode(state)
    assert entities.decode(data, OLDER.rules - {COUNTER}) == state
    read = entities.decode(data)
    assert read.cells == {
        (b"\x09", COUNTER): {Origin("eu", 1): (2, 0)},
        (b"\x09", -COUNTER): Kept(deltas={stamps[0]: b"\xff"}),
    }
    assert entities.decode(entities.encode(read)) == read


def test_a_damaged_change_of_an_unknown_kind_stays_where_it_is(eu: Region, tmp_path: Path) -> None:
    body = frame_pb2.FrameBody.FromString(eu.log.frames[0].body)
    body.kinds[0] = 9
    data = body.SerializeToString()
    frame = parse(data, b"")
    (change,) = frame.changes
    assert change.entity == (NO_TYPE, f"{CHANNEL}/c1")
    assert change.kind == CREATE and frame.parked == {change.entity}
    us = Keeper(tmp_path, KNOWN)
    receive(us.journal, data, chain(bytes(32), data), 1_000_000)
    us.take(Region("eu", []))
    (unread,) = us.journal.unread()
    assert (unread.type, unread.entity, unread.kind, unread.rule) == (CHANNEL, "c1", 9, 0)
    state = us.journal.committed[change.entity]
    damaged = Kept(deltas={change.stamp: b"\x80"})
    us.store.flush({change.entity: state._replace(cells={(b"\x09", -KINDS): damaged})}, None)
    us.upgrade(Known(KNOWN.rules, KNOWN.kinds | {9}), flushed=False)
    assert len(us.journal.unread()) == 1
    us.store.close()


def test_a_whole_message_that_is_written_clears_nothing_unknown() -> None:
    older, eu = Region("us", ["eu"]), Region("eu", ["us"])
    write(eu, lambda tx: tx.create(Channel(channel_id="c1", labels=["a"], takeovers=3)))
    # A field of a newer contract, beside the known ones, and one inside an atomic message.
    body = frame_pb2.FrameBody.FromString(eu.log.frames[0].body)
    (shape,) = body.shapes
    covered = tuple(zip(shape.paths, shape.rules, strict=True))
    deltas = dict(zip(covered, shapes.split(covered, body.contents[0]), strict=True))
    inner = channel_pb2.Source(file="a").SerializeToString() + b"\xa2\x06\x01x"
    deltas[b"\x64", LATEST] = b"\xa2\x06\x02ab"
    deltas[b"\x04", LATEST] = b"\x22" + bytes([len(inner)]) + inner
    covered = shapes.shape_of(deltas)
    shape.paths[:], shape.rules[:] = zip(*covered, strict=True)
    body.contents[0] = shapes.pack(covered, [deltas[key] for key in covered])
    data = body.SerializeToString()
    receive(older.journal, data, chain(bytes(32), data), 1_000_000)
    older.commit()

    def rewrite(tx) -> Channel:
        channel = tx.get(Channel, "c1")
        channel.source.file = "b"
        tx.set(channel)
        tx.set(Channel(channel_id="c1", title="new"), "title", "profile")
        return channel

    older.write(rewrite, 1)
    older.commit()
    cells = older.journal.committed[C1].cells
    assert cells[b"\x64", LATEST][3] == b"\xa2\x06\x02ab"
    assert cells[b"\x04", LATEST][3].endswith(b"\xa2\x06\x01x")
    found = older.get("c1")
    assert found is not None and (found.source.file, list(found.labels)) == ("b", ["a"])


@pytest.mark.parametrize(
    ("rules", "shown"),
    [
        ({b"\x02": LATEST}, b"\x12\x01l"),
        ({b"\x02": MAX}, b"\x12\x01m"),
        ({b"\x02": SET}, b""),
        ({}, b"\x12\x01m"),  # nobody reads it by name here: one of the two goes along
    ],
)
def test_the_readers_contract_says_which_rule_is_read(
    rules: dict[bytes, int], shown: bytes
) -> None:
    stamp = Stamp(1, "eu", 1)
    cells = {
        (b"\x02", LATEST): (*stamp, b"\x12\x01l"),
        (b"\x02", MAX): (b"1", b"\x12\x01m"),
        (b"\x02", -KINDS): Kept(deltas={stamp: b"x"}),
    }
    state = EntityState(1, False, stamp, Changed(*stamp, "a"), cells)
    assert rendering.render(state, rules, b"\x0a\x01k") == b"\x0a\x01k" + shown


@pytest.mark.parametrize(
    ("rules", "shown"),
    [
        ({b"\x05": LATEST}, b"\x2a\x02\x08\x01"),
        ({b"\x05\x01": LATEST, b"\x05\x02": LATEST}, b"\x2a\x02\x08\x02"),
    ],
)
def test_a_message_is_read_as_a_whole_or_in_parts_and_never_mixed(
    rules: dict[bytes, int], shown: bytes
) -> None:
    stamp = Stamp(1, "eu", 1)
    cells = {
        (b"\x05", LATEST): (*stamp, b"\x2a\x02\x08\x01"),
        (b"\x05\x01", LATEST): (*stamp, b"\x08\x02"),
    }
    state = EntityState(1, False, stamp, Changed(*stamp, "a"), cells)
    assert rendering.render(state, rules, b"\x0a\x01k") == b"\x0a\x01k" + shown


def test_what_the_peer_cannot_read_is_not_written_for_it(eu: Region) -> None:
    sender = Sender(eu.journal, eu.log, "channels", "us")
    receiver = Receiver(Region("us", ["eu"]).journal, "channels", "eu", PeerView())
    request = receiver.open(["eu"])[0]
    request.hello.formats[:] = [2]
    with pytest.raises(FormatUnknown, match=r"us reads the frame formats \[2\], here 1 is written"):
        sender.on_message(request, 1_000_000)


def test_what_is_parked_is_not_compared(eu: Region, tmp_path: Path) -> None:
    us = Keeper(tmp_path, OLDER)
    us.take(eu)
    write(eu, lambda tx: tx.create(Channel(channel_id="c3", title="three")))
    us.take(eu)
    assert us.journal.vector == eu.journal.vector
    for here, there in ((us.journal, eu.journal), (eu.journal, us.journal)):
        receiver = Receiver(here, "channels", there.region, PeerView())
        sender = Sender(there, eu.log, "channels", here.region)
        answers, _ = sender.on_message(receiver.open([])[0], 1_000_000)
        for message in (*answers, *sender.poll(1_000_000, {})):
            receiver.on_message(message, 1_000_000)
        status = compared(here, there)
        assert status.parked and status.ranges_compared and not status.ranges_differed
        assert vector_from_proto(status.equal_up_to) == here.vector
        assert not here.integrity.damages.found
    # What can be read is compared as ever.
    other = us.journal.committed[CHANNEL, "c3"]
    us.journal.committed[CHANNEL, "c3"] = other._replace(generation=2)
    us.journal.integrity.digest.touch([(CHANNEL, "c3")])
    assert compared(eu.journal, us.journal).ranges_differed
    assert eu.journal.integrity.damages.found == 1
    us.store.close()


def compared(here: Journal, there: Journal) -> PairStatus:
    """One whole comparison."""
    comparison = here.integrity.with_peer(there.region)
    answers = Answers(there, MemoryLog())
    now_ms = 2_000_000 + 10_000 * comparison.compared
    inquiry = comparison.go_on(now_ms)
    assert inquiry is not None
    for _ in range(100):
        if inquiry is not None:
            answers.ask(inquiry)
            answer = answers.next(now_ms)
            assert answer is not None
            comparison.answered(answer)
        now_ms += 100
        inquiry = comparison.go_on(now_ms)
        if not comparison.under_way:
            break
    return comparison.status(now_ms)


@pytest.mark.parametrize("known", [KNOWN, OLDER])
def test_a_snapshot_brings_what_is_parked(eu: Region, tmp_path: Path, known: Known) -> None:
    us = Keeper(tmp_path, OLDER)
    us.take(eu)
    ap = Region("ap", ["eu", "us"])
    keys = keyring("ap")
    key = MemorySigning("eu").key()
    assert key is not None and not keys.learn(key.statement, "us")
    ap.journal = Journal("ap", ["eu", "us"], b"digest", Recovered(), 1, 0, known=known, keys=keys)
    capture = us.journal.capture(b"id", 1_000_000)
    ap.journal.intake.accept("us", 1_000_000)
    start = SnapshotStart(header=capture.header.encode())
    ap.journal.intake.started("us", start, ap.journal, 1_000_000)
    piece = capture.piece(0, lambda *_: [])
    message = SnapshotPiece(
        id=capture.header.id, number=0, body=piece.body, hash=piece.hash, last=piece.last
    )
    ap.journal.intake.piece("us", message, 1_000_000)
    while (batch := ap.journal.next_batch()) is not None:
        ap.journal.stored(batch)
    assert ap.journal.vector == eu.journal.vector
    if known is KNOWN:
        assert ap.journal.committed == eu.journal.committed and ap.journal.reads_all
    else:
        assert ap.journal.committed == us.journal.committed
        assert ap.journal.unread() == us.journal.unread()
    us.store.close()
