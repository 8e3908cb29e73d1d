"""Snapshots between regions without I/O: whole, in part, damaged, and while writes go on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from isthmus.channels.v1 import channel_pb2
from isthmus.replication.v1 import link_pb2

from mesh.replication.core import entities, errors, snapshots
from mesh.replication.core.batches import Recovered
from mesh.replication.core.intake import TAKEOVER_MS, Intake
from mesh.replication.core.receiving import PeerView, Receiver
from mesh.replication.core.sending import Sender
from mesh.replication.core.signatures import Keyring
from mesh.replication.core.snapshots import Capture, Header, Staged
from tests.support.regions import Region, World

Channel = channel_pb2.Channel
NOW_MS = 1_000_000


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "PIECE_BYTES", 150)


def create(region: Region, *keys: str) -> None:
    for key in keys:
        region.write(
            lambda tx, key=key: tx.create(Channel(channel_id=key, title=key, labels=["x"])), 0
        )
        region.commit()


def rename(region: Region, key: str, title: str) -> None:
    region.write(lambda tx: tx.set(Channel(channel_id=key, title=title), "title"), 0)
    region.commit()


def delete(region: Region, key: str) -> None:
    region.write(lambda tx: tx.delete(Channel, key), 0)
    region.commit()


class Stream:
    """One stream from a region to another, carried by hand."""

    def __init__(self, source: Region, target: Region, *wanted: str) -> None:
        self.target = target
        self.receiver = Receiver(target.journal, "channels", source.name, PeerView())
        self.sender = Sender(source.journal, source.log, "channels", target.name)
        self.sent: list[str] = []
        self._ask(self.receiver.open(wanted or (source.name, target.name)))

    def _ask(self, requests: list[link_pb2.FollowRequest]) -> None:
        for request in requests:
            answers, _ = self.sender.on_message(request, NOW_MS)
            for answer in answers:
                self._give(answer)

    def _give(self, message: link_pb2.FollowResponse) -> None:
        self.sent.append(str(message.WhichOneof("message")))
        self.receiver.on_message(message, NOW_MS)

    def carry(self, rounds: int, alter: bool = False) -> None:
        for _ in range(rounds):
            self._ask(self.receiver.settle(NOW_MS))
            for message in self.sender.poll(NOW_MS, {}):
                if alter and message.HasField("piece"):
                    body = message.piece.body
                    message.piece.body = body[:-1] + bytes([body[-1] ^ 1])
                self._give(message)
            for _ in range(3):
                self.target.commit()


def bytes_of(region: Region) -> dict[entities.EntityKey, bytes]:
    return {e: entities.encode(state) for e, state in region.journal.committed.items()}


def same(one: Region, other: Region) -> bool:
    a, b = one.journal, other.journal
    return (
        bytes_of(one) == bytes_of(other)
        and a.digest() == b.digest()
        and a.vector == b.vector
        and a.seen.clocks == b.seen.clocks
        and all(a.head(origin) == b.head(origin) for origin in a.vector)
    )


@pytest.fixture
def eu() -> Region:
    """A region whose journal is cut."""
    eu = Region("eu", ["us"])
    create(eu, "c1", "c2", "c3", "c4", "c5", "c6")
    delete(eu, "c6")
    eu.log.frames.clear()
    return eu


def test_a_region_starts_from_a_snapshot_and_follows(eu: Region) -> None:
    us = Region("us", ["eu"])
    stream = Stream(eu, us)
    stream.carry(10)
    assert same(eu, us)
    assert stream.sent.count("piece") > 2 and "frame" not in stream.sent
    rename(eu, "c1", "later")
    create(eu, "c6")
    stream.carry(2)
    assert same(eu, us) and stream.sent.count("frame") == 2


def test_a_snapshot_and_its_tail_are_the_full_replay() -> None:
    eu, replayed, us = Region("eu", ["ap", "us"]), Region("ap", ["eu"]), Region("us", ["eu"])
    create(eu, "c1", "c2", "c3", "c4", "c5")
    rename(eu, "c2", "b")
    Stream(eu, replayed).carry(4)
    assert same(eu, replayed)
    eu.log.frames.clear()
    stream = Stream(eu, us)
    stream.carry(2)
    for number in range(4):  # while pieces are sent
        rename(eu, f"c{number + 1}", f"new {number}")
        delete(eu, "c5") if number == 2 else create(eu, f"d{number}")
        stream.carry(1)
    stream.carry(10)
    Stream(eu, replayed).carry(4)
    assert same(eu, us) and same(eu, replayed)


def test_what_is_not_whole_is_not_seen(eu: Region) -> None:
    us = Region("us", ["eu"])
    Stream(eu, us).carry(4)
    assert us.journal.intake.progress is not None
    assert not us.journal.committed and not us.journal.vector
    # But its origins do not give these numbers anew: it may be installed when nobody else has it.
    assert us.journal.known_of == eu.journal.vector


def test_a_stream_that_breaks_costs_nothing(eu: Region) -> None:
    us = Region("us", ["eu"])
    whole = Stream(eu, Region("us", ["eu"]))
    whole.carry(10)
    first = Stream(eu, us)
    first.carry(4)
    second = Stream(eu, us)
    second.carry(10)
    assert same(eu, us)
    pieces = first.sent.count("piece") + second.sent.count("piece")
    assert first.sent.count("piece") and pieces == whole.sent.count("piece")


def test_a_process_that_ends_goes_on_from_what_it_stored(eu: Region) -> None:
    us = Region("us", ["eu"])
    capture = eu.journal.capture(b"", NOW_MS)
    kept = [capture.piece(number, eu.log.receipts) for number in range(3)]
    us.start(Recovered(staged=Staged(capture.header.encode(), kept)), 0)
    again = Stream(eu, us)
    again.carry(10)
    assert same(eu, us)
    whole = Stream(eu, Region("us", ["eu"]))
    whole.carry(10)
    assert again.sent.count("piece") == whole.sent.count("piece") - 3


def test_what_was_stored_and_cannot_be_read_is_asked_for_anew(eu: Region) -> None:
    us = Region("us", ["eu"])
    us.start(Recovered(staged=Staged(b"\xff", [])), 0)
    Stream(eu, us).carry(10)
    assert same(eu, us)


def test_a_sender_that_forgot_its_snapshot_gives_another(eu: Region) -> None:
    us = Region("us", ["eu"])
    Stream(eu, us).carry(4)
    eu.journal.captures.expire(NOW_MS + snapshots.KEPT_MS)
    rename(eu, "c1", "later")
    Stream(eu, us).carry(12)
    assert same(eu, us)


def test_a_damaged_piece_is_refused_and_asked_for_again(eu: Region) -> None:
    us = Region("us", ["eu"])
    Stream(eu, us).carry(3)
    before = us.journal.intake.progress
    with pytest.raises(errors.SnapshotDamaged, match="does not follow"):
        Stream(eu, us).carry(5, alter=True)
    assert us.journal.intake.progress == before and not us.journal.vector
    Stream(eu, us).carry(10)
    assert same(eu, us)


def test_what_is_here_beyond_the_snapshot_stays(eu: Region) -> None:
    us = Region("us", ["eu"])
    create(us, "c1", "own")
    rename(us, "own", "mine")
    own = dict(us.journal.vector)
    stream = Stream(eu, us)
    stream.carry(10)
    assert us.journal.vector == {**eu.journal.vector, **own}
    assert us.get("own").title == "mine"
    Stream(us, eu).carry(4)
    assert same(eu, us)


def test_frames_that_wait_are_dropped_if_the_snapshot_has_them() -> None:
    eu, us, ap = Region("eu", ["ap", "us"]), Region("us", ["ap", "eu"]), Region("ap", ["eu", "us"])
    create(eu, "c1")
    Stream(eu, us).carry(3)
    rename(us, "c1", "seen")  # depends on what ap cannot get by frames
    create(us, "c2")
    eu.log.frames.clear()
    from_us = Stream(us, ap)
    from_us.carry(3)
    assert ap.journal.arrivals.waiting and not ap.journal.committed
    Stream(us, eu).carry(3)
    Stream(eu, ap).carry(10)
    assert not ap.journal.arrivals.waiting and same(eu, ap)
    create(us, "c3")
    from_us.carry(3)
    assert ap.get("c3") is not None


def test_one_peer_gives_the_snapshot_and_another_takes_over_from_a_silent_one(eu: Region) -> None:
    intake = Intake()
    assert intake.accept("eu", 0) is not None
    assert intake.accept("ap", 100) is None
    assert intake.accept("eu", 200) is not None
    assert intake.accept("ap", TAKEOVER_MS + 199) is None
    assert intake.accept("ap", TAKEOVER_MS + 200) is not None
    assert intake.accept("eu", TAKEOVER_MS + 300) is None


def test_a_snapshot_from_the_future_or_of_another_story_is_refused(eu: Region) -> None:
    us = Region("us", ["eu"])
    capture = eu.journal.capture(b"", NOW_MS)
    us.journal.intake.accept("eu", NOW_MS)
    start = link_pb2.FollowResponse()
    start.start.header = capture.header.encode()
    with pytest.raises(errors.ClockAhead):
        us.journal.intake.started("eu", start.start, us.journal, NOW_MS - 10 * 60_000)
    Stream(eu, us).carry(12)
    us.journal.intake.accept("eu", NOW_MS)
    origin = eu.journal.origin
    known = us.journal.head(origin)
    other = Header(b"id", "eu", {origin: known._replace(hash=bytes(32))}, 0)
    start.start.header = other.encode()
    with pytest.raises(errors.ChainBroken, match="another story"):
        us.journal.intake.started("eu", start.start, us.journal, NOW_MS)


def three_regions() -> tuple[Region, Region, Region]:
    """`ap` has what `eu` wrote, and no journal; `us` has nothing."""
    eu, ap, us = Region("eu", ["ap", "us"]), Region("ap", ["eu", "us"]), Region("us", ["ap", "eu"])
    create(eu, "c1", "c2", "c3")
    Stream(eu, ap).carry(3)
    assert same(eu, ap)
    ap.log.frames.clear()
    return eu, ap, us


def test_a_snapshot_proves_what_third_regions_wrote_and_so_does_one_of_its_taker() -> None:
    eu, ap, us = three_regions()
    us_from_ap = Stream(ap, us, "ap", "eu", "us")
    us_from_ap.carry(10)
    assert same(eu, us) and us_from_ap.sent.index("key") < us_from_ap.sent.index("start")
    assert us.journal.signatures == ap.journal.signatures == eu.journal.signatures
    # What came by a snapshot alone can be given on.
    sa = Region("sa", ["ap", "eu", "us"])
    Stream(us, sa, "eu", "us", "sa").carry(10)
    assert same(eu, sa)


@pytest.mark.parametrize(
    "forged",
    [
        {"sequence": 4},
        {"sequence": 2},
        {"hash": bytes(32)},
        {"clock": 1_000_001 << 16},
        {"signature": b""},
    ],
    ids=lambda forged: next(iter(forged)),
)
def test_a_forged_position_is_refused(forged: dict[str, Any]) -> None:
    eu, ap, us = three_regions()
    honest = Stream(ap, us, "ap", "eu", "us")
    capture = ap.journal.capture(b"", NOW_MS)
    at = capture.header.positions
    other = {eu.journal.origin: at[eu.journal.origin]._replace(**forged)}
    ap.journal.captures.add(Capture(replace(capture.header, positions=other), {}, [], 0, NOW_MS))
    ap.journal.captures._held.reverse()
    with pytest.raises(errors.SignatureInvalid, match=f"{eu.journal.origin} came to"):
        honest.carry(10)
    assert us.journal.intake.progress is None and not us.journal.vector
    ap.journal.captures._held.pop(0)
    Stream(ap, us, "ap", "eu", "us").carry(10)
    assert same(eu, us)


def test_a_region_without_keys_takes_a_snapshot_of_its_sender_alone() -> None:
    eu, ap, us = three_regions()
    us.journal.keys = Keyring("channels")
    with pytest.raises(errors.SignatureInvalid, match="known here"):
        Stream(ap, us, "ap", "eu", "us").carry(10)
    eu.log.frames.clear()
    Stream(eu, us).carry(10)
    assert same(eu, us)


def test_a_header_that_is_damaged_or_newer_is_refused() -> None:
    with pytest.raises(errors.SnapshotDamaged):
        Header.decode(b"\xff")
    with pytest.raises(errors.FormatUnknown, match="format 0"):
        Header.decode(b"")
    with pytest.raises(errors.SnapshotDamaged):
        snapshots.read(b"\xff")


def test_a_capture_does_not_change(eu: Region) -> None:
    before = bytes_of(eu)
    capture = Capture(
        Header(b"id", "eu", {}, 6), eu.journal.committed, list(eu.journal.committed), 0, 0
    )
    eu.journal.captures.add(capture)
    rename(eu, "c1", "later")
    delete(eu, "c2")
    create(eu, "c6", "c7")
    found: dict[entities.EntityKey, bytes] = {}
    number = 0
    while True:
        piece = capture.piece(number, eu.log.receipts)
        states = snapshots.read(piece.body).states
        found |= {e: entities.encode(state) for e, state in states.items()}
        if piece.last:
            break
        number += 1
    assert found == before


def test_the_journal_is_not_cut_above_a_snapshot_that_is_given(eu: Region) -> None:
    at = dict(eu.journal.vector)
    eu.journal.capture(b"", NOW_MS)
    create(eu, "c7")
    captures = eu.journal.captures
    assert captures.pinned(dict(eu.journal.vector), NOW_MS) == at
    later = NOW_MS + snapshots.KEPT_MS
    assert captures.pinned(dict(eu.journal.vector), later) == eu.journal.vector


def test_regions_settle_by_snapshots_from_each_other() -> None:
    world = World("ap", "eu", "us")
    for name in world.regions:
        create(world.regions[name], f"of-{name}")
    world.settle()
    for region in world.regions.values():
        region.log.frames.clear()
    lost = world.regions["us"]
    lost.log.frames.clear()
    lost.start(Recovered(), 5000)
    for link in world.links.values():
        link.cut()
    create(lost, "of-us-again")
    world.settle()
    assert len({region.journal.digest() for region in world.regions.values()}) == 1
    assert lost.get("of-eu") is not None and lost.get("of-us") is not None
