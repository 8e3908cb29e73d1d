"""What a server says it serves, compared with a contract: services, methods, messages, options."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf import descriptor_pb2
from google.protobuf.json_format import MessageToDict
from google.protobuf.unknown_fields import UnknownFieldSet

from mesh.contracts.differences import ABSENT, Difference, differences

# Options are compared by their names where something has told what they are called; those of
# protovalidate, whose wheel brings no such module, by their numbers.
for _module in ("isthmus.options.v1.options_pb2", "google.api.annotations_pb2"):
    importlib.import_module(_module)


@dataclass(frozen=True)
class Reflected:
    """A difference in one service, method, message or enum, by its full name."""

    subject: str
    difference: Difference


def compare(
    contract: descriptor_pb2.FileDescriptorSet,
    served: descriptor_pb2.FileDescriptorSet,
    services: Collection[str],
) -> Iterator[Reflected]:
    """How what is served differs in these services, and in all that their methods carry.

    `services` are in the contract. Comments and positions do not count.
    """
    ours, theirs = _Index(contract), _Index(served)
    carried: dict[str, None] = {}
    for name in sorted(services):
        should = ours.services[name]
        service = theirs.services.get(name)
        if service is None:
            yield Reflected(name, Difference("", ABSENT, "the service"))
            continue
        yield from _said(name, _own(service, "method"), _own(should, "method"))
        methods = {method.name: method for method in service.method}
        for method in should.method:
            found = methods.pop(method.name, None)
            subject = f"{name}/{method.name}"
            if found is None:
                yield Reflected(subject, Difference("", ABSENT, "the method"))
                continue
            yield from _said(subject, _json(found), _json(method))
            for kind in (method.input_type, method.output_type):
                _collect(ours, kind.lstrip("."), carried)
        for left in methods:
            yield Reflected(f"{name}/{left}", Difference("", "the method", ABSENT))
    inner = ("nested_type", "enum_type")
    for name in sorted(carried):
        if name not in theirs.types:
            yield Reflected(name, Difference("", ABSENT, "the type"))
        else:
            yield from _said(name, _own(theirs.types[name], *inner), _own(ours.types[name], *inner))


class _Index:
    """Services, messages and enums by their full names."""

    def __init__(self, files: descriptor_pb2.FileDescriptorSet) -> None:
        # Parsed afresh, so that options are known that were not when it was read.
        parsed = descriptor_pb2.FileDescriptorSet.FromString(files.SerializeToString())
        self.services: dict[str, descriptor_pb2.ServiceDescriptorProto] = {}
        self.types: dict[
            str, descriptor_pb2.DescriptorProto | descriptor_pb2.EnumDescriptorProto
        ] = {}
        for file in parsed.file:
            prefix = f"{file.package}." if file.package else ""
            for service in file.service:
                self.services[prefix + service.name] = service
            for message in file.message_type:
                self._add(prefix, message)
            for enum in file.enum_type:
                self.types[prefix + enum.name] = enum

    def _add(self, prefix: str, message: descriptor_pb2.DescriptorProto) -> None:
        name = prefix + message.name
        self.types[name] = message
        for nested in message.nested_type:
            self._add(f"{name}.", nested)
        for enum in message.enum_type:
            self.types[f"{name}.{enum.name}"] = enum


def _collect(index: _Index, name: str, into: dict[str, None]) -> None:
    """A type, and all that its fields hold at any depth."""
    found = index.types.get(name)
    if found is None or name in into:
        return
    into[name] = None
    if isinstance(found, descriptor_pb2.DescriptorProto):
        for field in found.field:
            if field.type_name:
                _collect(index, field.type_name.lstrip("."), into)


def _said(subject: str, there: Mapping[str, Any], should: Mapping[str, Any]) -> Iterator[Reflected]:
    for each in differences(there, should):
        yield Reflected(subject, each)


def _own(message: Any, *without: str) -> dict[str, Any]:
    """A descriptor as JSON, without what is compared by itself."""
    return {key: value for key, value in _json(message).items() if key not in without}


def _json(message: Any) -> dict[str, Any]:
    found: dict[str, Any] = MessageToDict(message, preserving_proto_field_name=True)
    _add_unnamed(message, found)
    for kind in ("field", "value", "oneof_decl"):
        for each, inner in zip(getattr(message, kind, ()), found.get(kind, ()), strict=True):
            _add_unnamed(each, inner)
            inner.pop("json_name", None)  # compilers differ in whether they write the usual one
    return found


def _add_unnamed(message: Any, found: dict[str, Any]) -> None:
    """Adds options that have no name here."""
    if message.HasField("options"):
        unnamed: Any = UnknownFieldSet(message.options)  # its stub does not say that it is a list
        for each in unnamed:
            data = each.data if isinstance(each.data, bytes) else str(each.data).encode()
            found.setdefault("options", {})[f"({each.field_number})"] = data.hex()
