"""Violations are named by the path of their field."""

from __future__ import annotations

import pytest
from google.protobuf.message import Message
from isthmus.channels.v1.channel_pb2 import Profile, Source
from isthmus.channels.v1.channels_pb2 import CreateChannelRequest, UpdateChannelRequest
from isthmus.devices.v1.gateway_pb2 import ConnectRequest, Hello
from isthmus.mesh.v1.authority_pb2 import CreateJoinTokenRequest
from isthmus.replication.v1.feed_pb2 import WatchRequest

from mesh.runtime.values import Validation

VALIDATION = Validation()
SOURCE = Source(file="a.mp4")


@pytest.mark.parametrize(
    ("message", "fields"),
    [
        (CreateChannelRequest(channel_id="news", source=SOURCE), set()),
        (CreateChannelRequest(channel_id="news"), {"source"}),
        (CreateChannelRequest(channel_id="news", source=Source()), {"source.source"}),
        (
            CreateChannelRequest(channel_id="news", source=SOURCE, labels=["a", "", "b" * 65]),
            {"labels[1]", "labels[2]"},
        ),
        (
            CreateChannelRequest(channel_id="news", source=Source(url="file:///etc/passwd")),
            {"source.url"},
        ),
        (
            CreateChannelRequest(
                channel_id="news", source=SOURCE, profile=Profile(width=9999, frame_rate=500)
            ),
            {"profile.width", "profile.frame_rate"},
        ),
        (UpdateChannelRequest(), {"channel_id", "update", "update_mask"}),
        (ConnectRequest(), {"message"}),
        (WatchRequest(types=[""]), {"types[0]"}),
    ],
)
def test_violations_name_their_fields(message: Message, fields: set[str]) -> None:
    violations = VALIDATION.violations(message)
    assert set(violations) == fields
    assert all(violations.values())


@pytest.mark.parametrize("identifier", ["", "News", "1st", "news-", "x" * 64, "two words"])
@pytest.mark.parametrize("of", [CreateChannelRequest, CreateJoinTokenRequest, Hello])
def test_a_wrong_id_is_answered_in_words(of: type[Message], identifier: str) -> None:
    name = "channel_id" if of is CreateChannelRequest else "device_id"
    text = VALIDATION.violations(of(**{name: identifier}))[name]
    assert text.startswith("must begin with a lower-case letter")
    assert "^" not in text
    assert name not in VALIDATION.violations(of(**{name: "encoder-eu-1"}))


def test_two_violations_of_one_field_are_both_told() -> None:
    text = VALIDATION.violations(
        CreateChannelRequest(channel_id="news", source=Source(file="../" + "x" * 600))
    )["source.file"]
    assert "512" in text
    assert "below the media root" in text
