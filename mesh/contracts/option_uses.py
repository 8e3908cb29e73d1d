"""Where options stand: every declaration of a schema that carries some."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from google.protobuf.message import Message
from isthmus.options.v1 import options_pb2

from mesh.contracts.schema import ENTITY, FIELD, METHOD, SERVICE, Schema, Source


@dataclass(frozen=True)
class OptionUse:
    """One use of an Isthmus option: the message, where it stands, and whose it is."""

    value: Message
    number: int
    source: Source
    owner: str


def holders(schema: Schema) -> Iterator[tuple[str, Message, Source]]:
    """Everything that carries options: its name, the options and where it stands."""
    for file in schema.files:
        yield file.name, file.proto.options, file.source
        for extension in file.proto.extension:
            yield f"{file.name}: {extension.name}", extension.options, file.source
    for service in schema.services.values():
        yield service.name, service.proto.options, service.source
        for method in service.methods:
            yield method.name, method.proto.options, method.source
    for message in schema.messages.values():
        yield message.name, message.proto.options, message.source
        for node in message.fields:
            yield node.full_name, node.proto.options, node.source
        for oneof in message.proto.oneof_decl:
            yield f"{message.name}.{oneof.name}", oneof.options, message.source
        for extension in message.proto.extension:
            yield f"{message.name}.{extension.name}", extension.options, message.source
        for reserved in message.proto.extension_range:
            yield message.name, reserved.options, message.source
    for enum in schema.enums.values():
        yield enum.name, enum.proto.options, enum.source
        for value in enum.values:
            yield value.full_name, value.proto.options, value.source


def uses(schema: Schema) -> Iterator[OptionUse]:
    """Every use of an option of ours."""
    for service in schema.services.values():
        if service.proto.options.HasExtension(options_pb2.service):
            yield OptionUse(service.contract, SERVICE, service.source, service.name)
        for method in service.methods:
            if method.proto.options.HasExtension(options_pb2.method):
                yield OptionUse(method.contract, METHOD, method.source, method.name)
    for message in schema.messages.values():
        if message.entity is not None:
            yield OptionUse(message.entity, ENTITY, message.source, message.name)
        for node in message.fields:
            if node.contract is not None:
                yield OptionUse(node.contract, FIELD, node.source, node.full_name)
