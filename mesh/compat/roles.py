"""What messages are for, by the contract: it decides in which direction they must fit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from enum import Enum

from google.protobuf import descriptor_pb2
from isthmus.options.v1 import options_pb2

from mesh.contracts.bindings import bindings
from mesh.contracts.model import EVERY_WORKLOAD
from mesh.contracts.schema import FieldNode, MethodNode, Schema, Source


class Role(Enum):
    """What a message or enum is for."""

    REQUEST = "request"
    RESPONSE = "response"
    # Passed between instances of one workload, which have no order of callers and servers.
    PEER = "peer"
    STORED = "stored"
    REPLICATED = "replicated"
    # Options of contracts: who does not know one must refuse it.
    POLICY = "policy"


# Field numbers in descriptor.proto.
_FILE_EXTENSION, _MESSAGE_EXTENSION = 7, 6

ALL = frozenset(Role)
"""What a message may be for that nothing reaches: it may travel in an Any, or in bytes."""


def roles(schema: Schema) -> Mapping[str, frozenset[Role]]:
    """The roles of each message and enum that something reaches, by full name."""
    found: dict[str, set[Role]] = {}
    for role, names in _roots(schema):
        for name in reached(schema, names, stay=role is Role.REPLICATED):
            found.setdefault(name, set()).add(role)
    return {name: frozenset(those) for name, those in found.items()}


def json(schema: Schema) -> frozenset[str]:
    """The messages and enums that methods with `google.api.http` carry."""
    names = [
        kind.lstrip(".")
        for method in schema.methods()
        if bindings(method)
        for kind in (method.proto.input_type, method.proto.output_type)
    ]
    return frozenset(reached(schema, names))


def among_peers(method: MethodNode) -> bool:
    """Whether a workload calls itself by it."""
    callers, workload = method.contract.callers, method.service.contract.workload
    return (
        callers.peers
        or callers.any_workload
        or workload in callers.workloads
        or (workload == EVERY_WORKLOAD and bool(callers.workloads))
    )


def reached(schema: Schema, names: Iterable[str], *, stay: bool = False) -> Iterator[str]:
    """Messages and enums of those names and all below them.

    With `stay` not through fields that stay in a home region.
    """
    waiting, seen = list(names), set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        yield name
        message = schema.messages.get(name)
        for field in message.fields if message is not None else ():
            if field.proto.type_name and not (stay and _stays(field)):
                waiting.append(field.type)


def _roots(schema: Schema) -> Iterator[tuple[Role, list[str]]]:
    for method in schema.methods():
        request, response = (
            kind.lstrip(".") for kind in (method.proto.input_type, method.proto.output_type)
        )
        yield Role.REQUEST, [request]
        yield Role.RESPONSE, [response]
        if among_peers(method):
            yield Role.PEER, [request, response]
    entities = [message.name for message in schema.entities()]
    yield Role.STORED, entities
    yield Role.REPLICATED, entities
    options = [each for each, _ in extensions(schema) if is_option(each)]
    yield Role.POLICY, [each.type_name.lstrip(".") for each in options if each.type_name]


def extensions(schema: Schema) -> Iterator[tuple[descriptor_pb2.FieldDescriptorProto, Source]]:
    """All extensions of messages, options among them."""
    for file in schema.files:
        for at, each in enumerate(file.proto.extension):
            yield each, file.source.inner(_FILE_EXTENSION, at, 0)
    for message in schema.messages.values():
        for at, each in enumerate(message.proto.extension):
            yield each, message.source.inner(_MESSAGE_EXTENSION, at, 0)


def is_option(extension: descriptor_pb2.FieldDescriptorProto) -> bool:
    """Whether it defines an option."""
    return extension.extendee.startswith(".google.protobuf.")


def _stays(field: FieldNode) -> bool:
    return field.contract is not None and field.contract.scope == options_pb2.SCOPE_HOME_REGION
