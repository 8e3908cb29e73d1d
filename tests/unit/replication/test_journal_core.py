"""The journal's and the links' refusals, incarnations and newer contracts."""

from __future__ import annotations

from unittest.mock import patch

import pytest
from isthmus.channels.v1 import channel_pb2
from isthmus.replication.v1 import frame_pb2, link_pb2, signature_pb2
from isthmus.replication.v1.frame_pb2 import Shape

from mesh.replication.core import errors, rendering
from mesh.replication.core.batches import Recovered
from mesh.replication.core.clocks import Origin
from mesh.replication.core.frames import chain
from mesh.replication.core.handshake import error_message, hello
from mesh.replication.core.receiving import PeerView, Receiver
from mesh.replication.core.sending import Sender
from mesh.replication.schema import GroupSchema
from tests.support.regions import CHANNEL, Region, World, contract, receive

Channel = channel_pb2.Channel


def create(key: str):
    return lambda tx: tx.create(Channel(channel_id=key, title=key, labels=["live"]))


def body_of(region: Region, **changes: object) -> bytes:
    """The region's first frame, with some of its columns replaced."""
    message = frame_pb2.FrameBody.FromString(region.log.frames[0].body)
    for name, value in changes.items():
        if isinstance(value, list):
            del getattr(message, name)[:]
            getattr(message, name).extend(value)
        else:
            setattr(message, name, value)
    return message.SerializeToString()


@pytest.fixture
def pair() -> tuple[Region, Region]:
    eu, us = Region("eu", ["us"]), Region("us", ["eu"])
    eu.write(create("c1"), 0)
    eu.commit()
    eu.write(create("c2"), 1)
    eu.commit()
    return eu, us


def take(us: Region, body: bytes, previous: bytes = bytes(32)) -> None:
    receive(us.journal, body, chain(previous, body), 1_000_000)


def test_a_gap_is_refused(pair: tuple[Region, Region]) -> None:
    eu, us = pair
    second = eu.log.frames[1]
    with pytest.raises(errors.HistoryTruncated, match="2 came, and 1 was expected"):
        receive(us.journal, second.body, second.hash, 1_000_000)


def test_a_frame_out_of_the_chain_is_refused(pair: tuple[Region, Region]) -> None:
    eu, us = pair
    with pytest.raises(errors.ChainBroken, match="does not follow"):
        receive(us.journal, eu.log.frames[0].body, b"x" * 32, 1_000_000)
    with pytest.raises(errors.ChainBroken, match="damaged"):
        take(us, eu.log.frames[0].body[:-1])


@pytest.mark.parametrize(
    ("columns", "error"),
    [
        ({"format": 2}, errors.FormatUnknown),
        ({"shapes": [Shape(paths=[b"\x02"], rules=[0])]}, errors.ChainBroken),
        ({"kinds": [0]}, errors.ChainBroken),
        ({"keys": ["a", "b"]}, errors.ChainBroken),
        ({"change_shapes": [3]}, errors.ChainBroken),
        ({"writes_left": [1]}, errors.ChainBroken),
        ({"first_sequence": 0}, errors.ChainBroken),
        ({"actors": [77]}, errors.ChainBroken),
        ({"contents": [b"\x05"]}, errors.ChainBroken),
        ({"contents": [b"\x00\x00\x00"]}, errors.ChainBroken),
        ({"shapes": [Shape(paths=[b""], rules=[1])]}, errors.ChainBroken),
        ({"shapes": [Shape(paths=[b"\x80"], rules=[1])]}, errors.ChainBroken),
        ({"shapes": [Shape(paths=[b"\x00"], rules=[1])]}, errors.ChainBroken),
        ({"shapes": [Shape(paths=[b"\x80\x80\x80\x80\x02"], rules=[1])]}, errors.ChainBroken),
        ({"shapes": [Shape(paths=[b"\x01" * 65], rules=[1])]}, errors.ChainBroken),
        ({"shapes": [Shape(paths=[b"\x02"], rules=[1, 1])]}, errors.ChainBroken),
        ({"shapes": [Shape(paths=[b"\x02"] * 2, rules=[1, 1])]}, errors.ChainBroken),
    ],
)
def test_a_frame_that_cannot_be_merged_is_refused_whole(
    pair: tuple[Region, Region], columns: dict[str, object], error: type[errors.LinkFault]
) -> None:
    eu, us = pair
    with pytest.raises(error):
        take(us, body_of(eu, **columns))
    first = eu.log.frames[0]
    receive(us.journal, first.body, first.hash, 1_000_000)
    us.commit()
    assert us.get("c1") == eu.get("c1")


def test_a_frame_waits_for_what_it_depends_on() -> None:
    world = World("ap", "eu", "us")
    world.regions["eu"].write(create("c1"), 1)
    world.regions["eu"].commit()
    world.links["eu", "us"].connect()
    world.links["eu", "us"].carry(2)
    world.regions["us"].commit()
    world.regions["us"].write(lambda tx: tx.add(Channel, "c1", "labels", "x"), 3)
    world.regions["us"].commit()
    world.links["us", "ap"].connect()
    world.links["us", "ap"].carry(4)
    ap = world.regions["ap"]
    ap.commit()
    assert ap.journal.arrivals.waiting and not ap.journal.vector
    world.links["eu", "ap"].connect()
    world.links["eu", "ap"].carry(5)
    ap.commit()
    assert sorted(ap.get("c1").labels) == ["live", "x"]


def test_another_peer_relays_when_it_is_asked_to() -> None:
    world = World("ap", "eu", "us")
    world.regions["eu"].write(create("c1"), 1)
    world.regions["eu"].commit()
    world.links["eu", "us"].connect()
    world.links["eu", "us"].carry(2)
    world.regions["us"].commit()
    world.links["us", "ap"].connect("us", "ap", "eu")
    world.links["us", "ap"].carry(3)
    world.regions["ap"].commit()
    assert world.regions["ap"].get("c1") == world.regions["eu"].get("c1")


def test_a_write_that_fails_takes_those_behind_it_along() -> None:
    eu = Region("eu", [])
    eu.write(create("c1"), 0)
    eu.take()
    eu.write(lambda tx: tx.increment(Channel, "c1", "takeovers"), 1)
    eu.commit(works=False)
    assert len(eu.refused) == 2
    assert eu.journal.look((CHANNEL, "c1")) is None
    eu.write(create("c1"), 2)
    eu.commit()
    assert eu.journal.vector == {eu.journal.origin: 1}


def test_a_restored_backup_takes_a_new_incarnation_and_fetches_its_past() -> None:
    world = World("eu", "us")
    eu, us = world.regions["eu"], world.regions["us"]
    eu.write(create("c1"), 1)
    eu.commit()
    backup = Recovered(
        dict(eu.journal.committed),
        dict(eu.journal.vector),
        {eu.journal.origin: eu.log.frames[-1].hash},
        eu.journal.clock.last,
    )
    eu.write(create("c2"), 2)
    eu.commit()
    world.settle()
    former = eu.journal.origin
    del eu.log.frames[1:]
    eu.start(backup, 50)
    for link in world.links.values():
        link.connect()
    eu.write(create("c3"), 51)
    eu.commit()
    assert eu.journal.origin > former and eu.journal.vector[former] == 1
    world.settle()
    assert eu.journal.vector[former] == 2
    assert [eu.get(key).title for key in ("c1", "c2", "c3")] == ["c1", "c2", "c3"]
    assert eu.journal.digest() == us.journal.digest()


def test_hello_tells_of_a_restored_backup_before_anything_is_written() -> None:
    world = World("eu", "us")
    eu = world.regions["eu"]
    eu.write(create("c1"), 1)
    eu.commit()
    world.settle()
    former = eu.journal.origin
    eu.log.frames.clear()
    eu.start(Recovered(vector={former: 0}), 50)
    for link in world.links.values():
        link.connect()
    world.settle()
    assert eu.journal.origin != former and eu.get("c1") is not None


def test_what_a_region_wrote_does_not_come_back_to_it() -> None:
    world = World("eu", "us")
    eu, us = world.regions["eu"], world.regions["us"]
    world.settle()
    with patch.object(eu.journal, "read", wraps=eu.journal.read) as read:
        # Between the words by which it says how far it is itself.
        for number in range(5):
            eu.write(create(f"c{number}"), world.now_ms)
            eu.commit()
            world.links["eu", "us"].carry(world.now_ms)
            us.commit()
            world.links["us", "eu"].carry(world.now_ms)
        assert us.get("c4") is not None
        world.settle()
    assert not read.called


def test_an_origin_that_all_peers_vouch_for_goes_on() -> None:
    world = World("ap", "eu", "us")
    eu = world.regions["eu"]
    eu.write(create("c1"), 1)
    eu.commit()
    world.settle()
    origin = eu.journal.origin
    journal = eu.journal
    eu.start(Recovered(journal.committed, journal.vector, journal._heads, journal.clock.last), 60)
    for link in world.links.values():
        link.connect()
    world.settle()
    eu.write(create("c2"), world.now_ms)
    eu.commit()
    assert eu.journal.origin == origin


def test_a_region_of_an_older_contract_keeps_merges_and_forwards_new_fields() -> None:
    world = World("ap", "eu", "us")
    eu, us, ap = (world.regions[name] for name in ("eu", "us", "ap"))
    eu.write(create("c1"), 1)
    eu.write(lambda tx: tx.increment(Channel, "c1", "takeovers", 4), 2)
    eu.commit()
    world.settle()
    older = GroupSchema(contract("takeovers", "labels").group_entities("channels"))
    schema = older.entities[CHANNEL]
    state = us.journal.committed[CHANNEL, "c1"]
    rendered = rendering.render(state, schema.rules, schema.key_field("c1"))
    # It reads them too: they stay where a newer message class finds them.
    assert Channel.FromString(rendered) == eu.get("c1")
    us.write(lambda tx: tx.set(Channel(channel_id="c1", title="new"), "title"), world.now_ms)
    us.commit()
    world.settle()
    assert ap.get("c1").takeovers == 4 and ap.get("c1").title == "new"


def sent_by(sender: Sender, request: link_pb2.FollowRequest) -> None:
    sender.on_message(request, 1_000_000)


def test_links_refuse_the_wrong_group_region_and_format(pair: tuple[Region, Region]) -> None:
    eu, us = pair

    def greet(group: str = "channels", peer: str = "us", **changes: object) -> None:
        message = hello(us.journal, group, ["eu"])
        for name, value in changes.items():
            getattr(message, name).clear() if value is None else setattr(message, name, value)
        sender = Sender(eu.journal, eu.log, "channels", peer)
        sender.on_message(link_pb2.FollowRequest(hello=message), 1_000_000)

    greet()
    with pytest.raises(errors.WrongGroup):
        greet(group="devices")
    with pytest.raises(errors.WrongRegion):
        greet(peer="ap")
    message = hello(us.journal, "channels")
    del message.formats[:]
    message.formats.append(9)
    with pytest.raises(errors.FormatUnknown):
        sent_by(Sender(eu.journal, eu.log, "channels", "us"), link_pb2.FollowRequest(hello=message))


def test_a_peers_error_is_raised_as_it_was_meant(pair: tuple[Region, Region]) -> None:
    _, us = pair
    receiver = Receiver(us.journal, "channels", "eu", PeerView())
    with pytest.raises(errors.WrongGroup, match="eu says: other"):
        receiver.on_message(error_message(errors.WrongGroup("other")), 1_000_000)


def test_a_peer_speaks_for_the_regions_that_it_was_asked_about(
    pair: tuple[Region, Region],
) -> None:
    """Else one region could write in the name of another that is well."""
    eu, _ = pair
    first = eu.log.frames[0]
    frame = link_pb2.FollowResponse(
        frame=frame_pb2.Frame(body=first.body, hash=first.hash, signature=first.signature)
    )
    (statement,) = eu.log.keys
    key = link_pb2.FollowResponse(key=signature_pb2.OriginKey.FromString(statement))
    us = Region("us", ["ap", "eu"])
    receiver = Receiver(us.journal, "channels", "ap", PeerView())
    receiver.open(["ap", "us"])
    ap = Region("ap", ["eu", "us"])
    greeting = link_pb2.FollowResponse(hello=hello(ap.journal, "channels"))
    receiver.on_message(greeting, 1_000_000)
    with pytest.raises(errors.WrongRegion, match="changes of 'eu'"):
        receiver.on_message(frame, 1_000_000)
    assert not us.journal.arrivals.waiting
    # Lost, it is wanted from whoever has it; what is under way when it returns is still taken.
    receiver.want(["ap", "us", "eu"])
    receiver.want(["ap", "us"])
    receiver.on_message(frame, 1_000_000)
    assert not receiver.release(), "nothing is known of the key yet"
    receiver.on_message(key, 1_000_000)
    assert receiver.release() and us.journal.arrivals.waiting


def test_a_sender_stays_within_its_credit(pair: tuple[Region, Region]) -> None:
    eu, us = pair
    sender = Sender(eu.journal, eu.log, "channels", "us")
    greeting = link_pb2.FollowRequest(hello=hello(us.journal, "channels", ["eu"]))
    sender.on_message(greeting, 1_000_000)
    assert [m.WhichOneof("message") for m in sender.poll(1_000_000, {})] == ["heartbeat"]
    credit = link_pb2.FollowRequest(credit=link_pb2.Credit(bytes=10, changes=10))
    sender.on_message(credit, 1_000_000)
    assert [m.WhichOneof("message") for m in sender.poll(1_000_500, {})] == ["key", "frame"]
    assert [m.WhichOneof("message") for m in sender.poll(1_001_000, {})] == ["heartbeat"]


def test_origins_order_by_region_and_incarnation() -> None:
    assert max([Origin("eu", 2), Origin("eu", 10)]) == Origin("eu", 10)
