"""Heads signed by their origins, and relayed frames that wait for it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from isthmus.channels.v1 import channel_pb2
from isthmus.replication.v1 import frame_pb2

from mesh.replication.core.clocks import COUNTER_BITS, Origin
from mesh.replication.core.errors import ChainBroken, HistoryTruncated, SignatureInvalid
from mesh.replication.core.frames import GENESIS, Frame, StoredFrame, chain, parse
from mesh.replication.core.relayed import Relayed
from mesh.replication.core.signatures import Head, Keyring, Verdict
from tests.support.regions import Region
from tests.support.signing import MemorySigning, keyring

HEAD = Head(Origin("eu", 7), 12, 1_000 << COUNTER_BITS, bytes(range(32)))


def signed(head: Head, group: str = "channels") -> tuple[bytes, bytes]:
    """A signature by the head's region, and what introduces its key."""
    keys = Keyring(group, MemorySigning(head.origin.region))
    signature = keys.sign(head)
    statement = keys.statement(signature)
    assert statement is not None
    return signature, statement


def test_a_signature_proves_its_head_and_no_other() -> None:
    signature, statement = signed(HEAD)
    keys = keyring("us")
    assert keys.examine(HEAD, signature) is Verdict.UNPROVEN, "its key is not known"
    assert keys.learn(statement, "ap") == ""
    assert keys.examine(HEAD, signature) is Verdict.PROVEN
    for other in (
        HEAD._replace(origin=Origin("eu", 8)),
        HEAD._replace(origin=Origin("ap", 7)),
        HEAD._replace(sequence=13),
        HEAD._replace(clock=HEAD.clock + 1),
        HEAD._replace(hash=bytes(32)),
    ):
        assert keys.examine(other, signature) is Verdict.FALSE
    elsewhere, _ = signed(HEAD, "devices")
    assert keys.examine(HEAD, elsewhere) is Verdict.FALSE


@settings(deadline=None)
@given(st.text(max_size=9), st.text(max_size=9), st.text(max_size=9), st.text(max_size=9))
def test_names_do_not_run_into_one_another(g: str, r: str, group: str, region: str) -> None:
    one = Keyring(g)._content(HEAD._replace(origin=Origin(r, 7)))
    other = Keyring(group)._content(HEAD._replace(origin=Origin(region, 7)))
    assert (one == other) == ((g, r) == (group, region))


def test_what_has_no_signature_is_not_proven() -> None:
    _, statement = signed(HEAD)
    keys = keyring("us")
    keys.learn(statement, "ap")
    assert keys.examine(HEAD, b"") is Verdict.UNPROVEN


def test_without_signing_nothing_is_signed_or_proven() -> None:
    signature, statement = signed(HEAD)
    keys = Keyring("channels")
    assert keys.sign(HEAD) == b""
    assert keys.learn(statement, "eu")
    assert keys.examine(HEAD, signature) is Verdict.UNPROVEN


def test_a_key_signs_for_its_time_alone() -> None:
    hour = 3_600_000
    signing = MemorySigning("eu", since_ms=10 * hour, until_ms=11 * hour)
    keys = Keyring("channels", signing)

    def verdict(made_ms: int) -> Verdict:
        head = HEAD._replace(clock=made_ms << COUNTER_BITS)
        return keys.examine(head, keys.sign(head))

    assert verdict(9 * hour) is Verdict.UNPROVEN
    assert verdict(10 * hour) is verdict(11 * hour) is Verdict.PROVEN
    assert verdict(12 * hour) is Verdict.UNPROVEN


def test_a_statement_of_a_third_region_is_checked() -> None:
    _, statement = signed(HEAD)
    keys = keyring("us")
    forged = statement.replace(b"eu", b"ap")
    assert "not believed" in keys.learn(forged, "eu")
    assert keys.learn(b"\xff", "eu") == "a damaged key"
    assert keys.known == 0
    assert keys.learn(forged, "ap") == "", "of its own key a region's word is enough"


def test_keys_are_kept_until_a_commit_holds_them() -> None:
    _, statement = signed(HEAD)
    keys = keyring("us")
    keys.learn(statement, "ap")
    (key,) = keys.unstored.values()
    assert key.statement == statement
    keys.stored([key])
    assert not keys.unstored
    signature, _ = signed(HEAD)
    assert keyring("us", [statement]).examine(HEAD, signature) is Verdict.PROVEN


# Relayed frames.


@pytest.fixture(scope="module")
def eu() -> Region:
    """An origin with five frames."""
    region = Region("eu", ["ap", "us"])
    for number in range(5):
        key = f"c{number}"
        region.write(lambda tx, key=key: _create(tx, key), number)
        region.commit()
    assert len(region.log.frames) == 5
    return region


def _create(tx, key: str):
    message = channel_pb2.Channel(channel_id=key, title="true")
    tx.create(message)
    return message


class Relay:
    """What `us` makes of what `ap` relays."""

    def __init__(self, eu: Region) -> None:
        self.us = Region("us", ["ap", "eu"])
        self.relayed = Relayed(self.us.journal, "ap")
        self.relayed.introduce(eu.log.keys[0])

    def send(self, frame: StoredFrame | Frame) -> None:
        read = self.us.journal.read(frame.body, frame.hash, 1_000_000, None, frame.signature)
        self.relayed.hold(read)

    @property
    def taken(self) -> int:
        return sum(self.us.journal.taken.values())


@settings(deadline=None)
@given(st.lists(st.booleans(), min_size=5, max_size=5))
def test_one_signature_proves_all_before_it(eu: Region, has: list[bool]) -> None:
    relay = Relay(eu)
    for frame, signature in zip(eu.log.frames, has, strict=True):
        relay.send(frame if signature else frame._replace(signature=b""))
    last = max((at + 1 for at, signature in enumerate(has) if signature), default=0)
    assert relay.relayed.release() == (last > 0)
    assert relay.taken == last
    assert [frame.last for frame in relay.relayed] == list(range(last + 1, 6))
    assert not relay.relayed.release()


@settings(deadline=None)
@given(st.data())
def test_what_a_relay_makes_of_a_chain_is_never_taken(eu: Region, data: st.DataObject) -> None:
    """Whatever it leaves out, repeats, reorders or alters: only true frames are ever taken."""
    true = eu.log.frames
    count = len(true)
    chosen = data.draw(st.lists(st.integers(0, count - 1), max_size=8))
    altered = data.draw(st.sets(st.integers(0, 7)))
    whose = data.draw(st.lists(st.integers(0, count), min_size=8, max_size=8))
    relay = Relay(eu)
    head, first = GENESIS, 1
    try:
        for at, index in enumerate(chosen):
            body = bytearray(true[index].body)
            message = _renumbered(bytes(body), first, at in altered)
            head = chain(head, message)
            signature = b"" if whose[at] == count else true[whose[at]].signature
            forged = StoredFrame(0, true[0].origin, first, first, message, head, signature)
            relay.send(forged)
            first += 1
            relay.relayed.release()
    except SignatureInvalid:
        pass
    heads = {GENESIS, *(frame.hash for frame in true)}
    assert relay.us.journal.arrivals.end(true[0].origin)[1] in heads


def _renumbered(body: bytes, first: int, altered: bool) -> bytes:
    message = frame_pb2.FrameBody.FromString(body)
    message.first_sequence = first
    if altered:
        message.keys[0] = "other"
    return message.SerializeToString(deterministic=True)


def test_a_relay_may_not_leave_a_gap_or_break_the_chain(eu: Region) -> None:
    relay = Relay(eu)
    with pytest.raises(HistoryTruncated):
        relay.send(eu.log.frames[1])
    relay.send(eu.log.frames[0])
    with pytest.raises(ChainBroken):
        relay.send(eu.log.frames[1]._replace(hash=bytes(32)))


def test_what_comes_from_elsewhere_meanwhile_is_not_doubled(eu: Region) -> None:
    relay = Relay(eu)
    for frame in eu.log.frames[:3]:
        relay.send(frame)
    for frame in eu.log.frames[:4]:
        direct = parse(frame.body, frame.hash)
        assert relay.us.journal.take(direct)
    assert not relay.relayed.release()
    assert not list(relay.relayed)
    relay.send(eu.log.frames[4])
    assert relay.relayed.release() and relay.taken == 5


def test_a_key_that_comes_later_proves_what_is_held(eu: Region) -> None:
    relay = Relay(eu)
    late = Region("us", ["ap", "eu"])
    relay.us, relay.relayed = late, Relayed(late.journal, "ap")
    for frame in eu.log.frames:
        relay.send(frame)
    assert not relay.relayed.release()
    relay.relayed.introduce(b"\xff")
    assert relay.relayed.refusal == "a damaged key" and not relay.relayed.release()
    relay.relayed.introduce(eu.log.keys[0])
    assert relay.relayed.release() and relay.taken == 5


def test_many_frames_cost_one_check(eu: Region, monkeypatch: pytest.MonkeyPatch) -> None:
    relay = Relay(eu)
    checks: list[Head] = []
    real: Callable[..., Verdict] = Keyring.examine

    def examine(keys: Keyring, head: Head, signature: bytes) -> Verdict:
        checks.append(head)
        return real(keys, head, signature)

    monkeypatch.setattr(Keyring, "examine", examine)
    for frame in eu.log.frames:
        relay.send(frame)
    assert relay.relayed.release() and relay.taken == 5
    assert [head.sequence for head in checks] == [5]
