"""gRPC bodies in words, and nothing in them that is not to be seen."""

from __future__ import annotations

import json

import pytest
from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, message_factory
from isthmus.channels.v1.channel_pb2 import Channel, Source
from isthmus.channels.v1.channels_pb2 import CreateChannelRequest
from isthmus.mesh.v1.tap_pb2 import TapResponse

from mesh.contracts import redaction
from mesh.contracts.payloads import MOST_MESSAGES, UNREADABLE, shown

KEY = "rtmps://live.example/app/stream-key"
CREATE = CreateChannelRequest(channel_id="news", title="News", source=Source(url=KEY))
TYPE = CREATE.DESCRIPTOR.full_name


def framed(*bodies: bytes, flags: int = 0) -> bytes:
    return b"".join(bytes([flags]) + len(b).to_bytes(4, "big") + b for b in bodies)


def test_each_message_is_json_without_what_is_marked() -> None:
    body = framed(CREATE.SerializeToString(), CreateChannelRequest(title="x").SerializeToString())
    (first, second), whole = shown(TYPE, body)
    assert whole
    assert json.loads(first) == {
        "channel_id": "news",
        "title": "News",
        "source": {},
        "source.url": "[redacted]",
    }
    assert json.loads(second) == {"title": "x"}
    assert shown(TYPE, b"") == ([], True)


def test_what_is_unknown_to_the_contract_is_not_shown() -> None:
    unknown = CREATE.SerializeToString() + b"\xfa\xff\x03\x06" + b"secret"
    (said,), whole = shown(TYPE, framed(unknown))
    assert whole
    assert "secret" not in said
    assert shown("nobody.Knows", framed(b"secret")) == ([UNREADABLE], True)
    assert shown(TYPE, framed(b"\xff\xff secret")) == ([UNREADABLE], True)


@pytest.mark.parametrize("cut", [1, 4, 5, 20])
def test_what_is_cut_off_or_compressed_is_said_to_be(cut: int) -> None:
    whole = framed(CREATE.SerializeToString())
    assert shown(TYPE, whole[:cut]) == ([], False)
    assert len(shown(TYPE, whole + whole[:cut])[0]) == 1
    assert not shown(TYPE, whole + whole[:cut])[1]
    assert shown(TYPE, framed(b"x", flags=1)) == ([], False)
    many, all_of_it = shown(TYPE, whole * (MOST_MESSAGES + 1))
    assert (len(many), all_of_it) == (MOST_MESSAGES, False)


def test_a_message_of_any_type_is_not_looked_into_and_not_shown() -> None:
    file = descriptor_pb2.FileDescriptorProto(
        name="holder.proto",
        package="holder",
        syntax="proto3",
        dependency=["google/protobuf/any.proto"],
    )
    kind, sealed = file.message_type.add(name="Holder"), ".google.protobuf.Any"
    kind.field.add(name="one", number=1, type=11, label=1, type_name=sealed)
    kind.field.add(name="many", number=2, type=11, label=3, type_name=sealed)
    kind.field.add(name="open", number=3, type=9, label=1)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(any_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    holder = message_factory.GetMessageClass(pool.FindMessageTypeByName("holder.Holder"))(open="x")
    for each in (holder.one, holder.many.add()):
        each.type_url = "type.googleapis.com/isthmus.channels.v1.Channel"
        each.value = Channel(source=Source(url=KEY)).SerializeToString()
    assert redaction.strip(holder) == ["one", "many"]
    assert holder.SerializeToString() == b"\x1a\x01x"


def test_a_tap_of_taps_shows_no_payloads() -> None:
    answer = TapResponse()
    answer.calls.add(requests=["secret"], responses=["secret"], path="/a.A/One")
    (said,), _ = shown(answer.DESCRIPTOR.full_name, framed(answer.SerializeToString()))
    assert "secret" not in said
    assert "/a.A/One" in said
