"""What a server reflects, against a contract."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor_pool import DescriptorPool
from isthmus.options.v1 import options_pb2

from mesh.contracts.read import descriptors
from mesh.contracts.reflected import compare

CHANNELS = "isthmus.channels.v1.ChannelService"
Files = descriptor_pb2.FileDescriptorSet


def reflected() -> Files:
    """The project's own files as a server's pool gives them, without positions."""
    pool = DescriptorPool()
    found = Files()
    for file in descriptors().file:
        pool.Add(file)
    for file in descriptors().file:
        found.file.add().MergeFromString(pool.FindFileByName(file.name).serialized_pb)
    return found


def file_of(files: Files, name: str) -> descriptor_pb2.FileDescriptorProto:
    return next(file for file in files.file if file.name.endswith(name))


def without_a_method(files: Files) -> None:
    del file_of(files, "channels.proto").service[0].method[0]


def another_timeout(files: Files) -> None:
    method = file_of(files, "channels.proto").service[0].method[1]
    method.options.Extensions[options_pb2.method].timeout.seconds = 77


def a_new_method(files: Files) -> None:
    method = file_of(files, "channels.proto").service[0].method.add(name="Explode")
    method.input_type = method.output_type = ".isthmus.channels.v1.Channel"


def field_of_another_type(files: Files) -> None:
    (channel,) = (m for m in file_of(files, "channel.proto").message_type if m.name == "Channel")
    (title,) = (f for f in channel.field if f.name == "title")
    title.type = title.TYPE_BYTES


def rule_of_a_value(files: Files) -> None:
    """An option whose name is not known here: protovalidate's."""
    for message in file_of(files, "channels.proto").message_type:
        for field in message.field:
            if message.name == "CreateChannelRequest" and field.name == "title":
                field.options.MergeFromString(b"\xba\x48\x02\x10\x01")


def without_the_service(files: Files) -> None:
    del file_of(files, "channels.proto").service[:]


def test_the_same_is_the_same() -> None:
    assert not list(compare(descriptors(), reflected(), [CHANNELS]))


@pytest.mark.parametrize(
    "change, subject, path, there, should",
    [
        (without_a_method, f"{CHANNELS}/CreateChannel", "", "nothing", "the method"),
        (
            another_timeout,
            f"{CHANNELS}/UpdateChannel",
            "options.[isthmus.options.v1.method].timeout",
            '"77s"',
            '"5s"',
        ),
        (a_new_method, f"{CHANNELS}/Explode", "", "the method", "nothing"),
        (
            field_of_another_type,
            "isthmus.channels.v1.Channel",
            "field[title].type",
            '"TYPE_BYTES"',
            '"TYPE_STRING"',
        ),
        (without_the_service, CHANNELS, "", "nothing", "the service"),
    ],
)
def test_each_difference_has_a_name(
    change: Callable[[Files], None], subject: str, path: str, there: str, should: str
) -> None:
    files = reflected()
    change(files)
    (found,) = compare(descriptors(), files, [CHANNELS])
    said = found.difference
    assert (found.subject, said.path, said.there, said.should) == (subject, path, there, should)


def test_options_without_a_name_here_count() -> None:
    files = reflected()
    rule_of_a_value(files)
    (found,) = compare(descriptors(), files, [CHANNELS])
    assert found.subject == "isthmus.channels.v1.CreateChannelRequest"
    assert found.difference.path.startswith("field[title].options")


def test_what_no_method_carries_does_not_count() -> None:
    files = reflected()
    del file_of(files, "overview.proto").message_type[:]
    assert not list(compare(descriptors(), files, [CHANNELS]))
