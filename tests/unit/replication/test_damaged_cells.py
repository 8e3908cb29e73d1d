"""Cells that no honest region writes: refused where they arrive, or read around."""

from __future__ import annotations

import logging

import pytest
from isthmus.channels.v1 import channel_pb2
from isthmus.replication.v1 import frame_pb2

from mesh.replication.core import cells, entities, errors, rendering, shapes
from mesh.replication.core.cells import FIRST, LATEST, MAX, SET
from mesh.replication.core.clocks import Origin
from mesh.replication.core.frames import chain
from mesh.replication.core.wire import piece, read_varint, varint
from mesh.replication.rendering import Renderer
from tests.support.regions import CHANNEL, SCHEMA, Region, receive

Channel = channel_pb2.Channel
EU = Origin("eu", 1)
TITLE, WIDTH, ASSIGNMENT, LABELS, UNKNOWN = b"\x02", b"\x05\x01", b"\x08", b"\x0a", b"\x64"


def frame(path: bytes, rule: int, delta: bytes) -> bytes:
    """A frame of the region eu that creates c1, titled, and gives it one more cell."""
    eu = Region("eu", ["us"])
    eu.write(lambda tx: tx.create(Channel(channel_id="c1", title="news")), 0)
    eu.commit()
    body = frame_pb2.FrameBody.FromString(eu.log.frames[0].body)
    (shape,) = body.shapes
    cells_here = tuple(zip(shape.paths, shape.rules, strict=True))
    deltas = dict(zip(cells_here, shapes.split(cells_here, body.contents[0]), strict=True))
    deltas[path, rule] = delta
    covered = shapes.shape_of(deltas)
    shape.paths[:], shape.rules[:] = zip(*covered, strict=True)
    body.contents[0] = shapes.pack(covered, [deltas[key] for key in covered])
    return body.SerializeToString()


def received(path: bytes, rule: int, delta: bytes) -> Region:
    us = Region("us", ["eu"])
    body = frame(path, rule, delta)
    receive(us.journal, body, chain(bytes(32), body), 1_000_000)
    us.commit()
    return us


def offered(value: bytes) -> bytes:
    return cells.Max.delta(b"9", value)


def added(*elements: bytes) -> bytes:
    return varint(len(elements)) + varint(1) + b"".join(map(piece, elements))


@pytest.mark.parametrize(
    ("path", "rule", "delta"),
    [
        pytest.param(TITLE, LATEST, b"\x12\x05ab", id="shorter than it says"),
        pytest.param(TITLE, LATEST, b"\x12", id="a tag alone"),
        pytest.param(TITLE, LATEST, b"\x12\x01a\x80", id="ends inside a tag"),
        pytest.param(TITLE, LATEST, b"\x10\x80", id="ends inside a number"),
        pytest.param(TITLE, LATEST, b"\x11abc", id="half of a fixed64"),
        pytest.param(TITLE, LATEST, b"\x15abc", id="half of a fixed32"),
        pytest.param(TITLE, LATEST, b"\x16a", id="no wire type"),
        pytest.param(TITLE, FIRST, b"\x13\x14", id="a group"),
        pytest.param(TITLE, FIRST, b"\x1a\x01a", id="another field"),
        pytest.param(TITLE, FIRST, b"\x12\x01a\x0a\x02c2", id="another field behind it"),
        pytest.param(WIDTH, LATEST, b"\x28\x01", id="the outer field's number"),
        pytest.param(UNKNOWN, LATEST, b"\xa2\x06\x05ab", id="a field of a newer contract"),
        pytest.param(ASSIGNMENT, MAX, offered(b"\x42\x05ab"), id="under MAX"),
        pytest.param(LABELS, SET, added(b"\x52\x05ab"), id="in a SET"),
        pytest.param(LABELS, SET, added(b""), id="an empty element of a SET"),
    ],
)
def test_a_value_that_is_no_field_is_refused(path: bytes, rule: int, delta: bytes) -> None:
    with pytest.raises(errors.ChainBroken, match=r"the frame of eu\S* at 1 is damaged"):
        received(path, rule, delta)


@pytest.mark.parametrize(
    ("delta", "title"),
    [
        pytest.param(b"\x1a\x01a", "", id="another field"),
        pytest.param(b"\x12\x01a\x0a\x02c2", "a", id="another field behind it"),
        pytest.param(b"\x12\x01a\x1b\x1c\x12\x01b", "a", id="a group behind it"),
    ],
)
def test_what_a_plain_shape_does_not_name_is_passed_over(delta: bytes, title: str) -> None:
    us = received(TITLE, LATEST, delta)
    assert us.get("c1") == Channel(channel_id="c1", title=title)
    state = us.journal.committed[CHANNEL, "c1"]
    unpacked = state._replace(cells=dict(state.cells.items()))
    assert entities.encode(state) == entities.encode(unpacked)
    assert entities.decode(entities.encode(state)) == state


@pytest.mark.parametrize(
    ("path", "rule", "delta"),
    [
        (UNKNOWN, LATEST, b"\xa2\x06\x02ab"),
        (UNKNOWN, LATEST, b"\xa0\x06\x81\x01\xa0\x06\x02"),
        (UNKNOWN, LATEST, b"\xa1\x0612345678\xa5\x061234"),
        (UNKNOWN, LATEST, b""),
        (UNKNOWN, MAX, offered(b"\xa0\x06\x01")),
        (UNKNOWN, SET, added(b"\xa2\x06\x01a", b"\xa0\x06\x01")),
    ],
)
def test_fields_of_a_newer_contract_are_kept(path: bytes, rule: int, delta: bytes) -> None:
    us = received(path, rule, delta)
    assert (path, rule) in us.journal.committed[CHANNEL, "c1"].cells
    channel = us.get("c1")
    assert channel is not None and channel.title == "news"


def test_a_number_beyond_64_bits_is_refused() -> None:
    assert read_varint(b"\xff" * 9 + b"\x01", 0) == ((1 << 64) - 1, 10)
    with pytest.raises(errors.ChainBroken):
        read_varint(b"\xff" * 9 + b"\x02", 0)


@pytest.mark.parametrize(
    ("path", "rule", "delta"),
    [
        pytest.param(b"\x04", LATEST, b"\x22\x03\x0a\x01\xff", id="source"),
        pytest.param(ASSIGNMENT, MAX, offered(b"\x42\x02\x0a\x05"), id="assignment"),
        pytest.param(LABELS, SET, added(b"\x52\x01\xff"), id="labels"),
        pytest.param(b"\x03\x01", LATEST, b"\x08\xff\x01", id="below home_region, a string"),
    ],
)
def test_an_unreadable_cell_leaves_its_field_unset(path: bytes, rule: int, delta: bytes) -> None:
    """Well framed, and yet not what the contract's class can parse: the rest is still read."""
    us = received(path, rule, delta)
    view = Renderer(us.journal, SCHEMA).view((CHANNEL, "c1"), us.journal.committed[CHANNEL, "c1"])
    assert view.message == Channel(channel_id="c1", title="news")
    assert us.write(lambda tx: tx.get(Channel, "c1") or Channel(), 1) == view.message


def test_a_value_of_another_wire_type_is_an_unknown_field() -> None:
    channel = received(b"\x03", LATEST, b"\x18\x01").get("c1")
    assert channel is not None and (channel.title, channel.home_region) == ("news", "")


def test_what_is_unreadable_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    us = received(b"\x04", LATEST, b"\x22\x03\x0a\x01\xff")
    renderer = Renderer(us.journal, SCHEMA)
    with caplog.at_level(logging.ERROR, logger="isthmus.replication"):
        for number in range(3):
            renderer.view((CHANNEL, "c1"), us.journal.committed[CHANNEL, "c1"])
            us.write(lambda tx: tx.increment(Channel, "c1", "takeovers") or Channel(), number)
            us.commit()
        assert [r.getMessage() for r in caplog.records] == [
            "isthmus.channels.v1.Channel 'c1': source cannot be read and counts as not set: "
            "some region wrote what is not of its type"
        ]
        # Whoever writes the field mends it.
        mended = Channel(channel_id="c1", source=channel_pb2.Source(file="a.mp4"))
        us.write(lambda tx: tx.set(mended, "source") or mended, 9)
        us.commit()
        view = renderer.view((CHANNEL, "c1"), us.journal.committed[CHANNEL, "c1"])
    assert isinstance(view.message, Channel) and view.message.source.file == "a.mp4"
    assert len(caplog.records) == 1


@pytest.mark.parametrize(("path", "delta"), [(b"\x01", b"\x0a\x02c2"), (b"\x01\x0c", b"\x62\x01z")])
def test_no_cell_stands_for_the_key(path: bytes, delta: bytes) -> None:
    channel = received(path, LATEST, delta).get("c1")
    assert channel is not None and channel.channel_id == "c1"


def test_a_cell_that_changed_by_itself_is_left_out_of_what_a_conflict_tells() -> None:
    us = received(LABELS, SET, added(b"\x52\x01x"))
    state = us.journal.committed[CHANNEL, "c1"]
    whole = rendering.content(state)
    assert Channel.FromString(whole).labels == ["x"]
    live, seen, beyond = state.cells[LABELS, SET]
    damaged = (dict.fromkeys(live, b"\x52\x05x"), seen, beyond)
    left = rendering.content(state._replace(cells={**state.cells, (LABELS, SET): damaged}))
    assert Channel.FromString(left) == Channel(title="news")
