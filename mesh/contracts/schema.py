"""A descriptor set as the rules see it: services, methods, messages and fields with their options.

Options are read here and nowhere else. Every node knows the line of each of its options, as far as
the compiler kept source positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from google.protobuf import descriptor_pb2
from isthmus.options.v1 import options_pb2

from mesh.contracts.model import Location

# Field numbers in descriptor.proto: the steps of a source position's path.
_FILE_MESSAGE, _FILE_ENUM, _FILE_SERVICE, _FILE_OPTIONS = 4, 5, 6, 8
_MESSAGE_FIELD, _MESSAGE_NESTED, _MESSAGE_ENUM, _MESSAGE_OPTIONS = 2, 3, 4, 7
_ENUM_VALUE, _ENUM_OPTIONS, _VALUE_OPTIONS = 2, 3, 3
_SERVICE_METHOD, _SERVICE_OPTIONS = 2, 3
_METHOD_OPTIONS, _FIELD_OPTIONS = 4, 8

SERVICE, METHOD, ENTITY, FIELD = 51901, 51902, 51903, 51904
"""The numbers of Isthmus' own options."""

IDEMPOTENCY_LEVEL = 34
"""The number of the standard option `idempotency_level`."""


@dataclass(frozen=True)
class Source:
    """A position in one file; falls back to the enclosing declaration's line."""

    file: str
    lines: Mapping[tuple[int, ...], int]
    path: tuple[int, ...]
    options: int

    def at(self, *option: int) -> Location:
        """The line of an option given by its numbers, or else of what holds it."""
        path = (*self.path, self.options, *option) if option else self.path
        while path and path not in self.lines:
            path = path[:-1]
        return Location(self.file, self.lines.get(path, 1))

    def inner(self, kind: int, index: int, options: int) -> Source:
        """The position of a declaration inside."""
        return Source(self.file, self.lines, (*self.path, kind, index), options)


@dataclass(frozen=True)
class FieldNode:
    """A field; `type` is the full name of its message or enum, or a scalar's keyword."""

    proto: descriptor_pb2.FieldDescriptorProto
    source: Source
    message: MessageNode = field(repr=False)

    @property
    def name(self) -> str:
        """Its short name."""
        return self.proto.name

    @property
    def full_name(self) -> str:
        """Message and field."""
        return f"{self.message.name}.{self.proto.name}"

    @property
    def type(self) -> str:
        """What it holds."""
        if self.proto.type_name:
            return self.proto.type_name.lstrip(".")
        kind = descriptor_pb2.FieldDescriptorProto.Type.Name(self.proto.type)
        return kind.removeprefix("TYPE_").lower()

    @property
    def is_message(self) -> bool:
        """Whether it holds messages."""
        return self.proto.type == self.proto.TYPE_MESSAGE

    @property
    def repeated(self) -> bool:
        """Whether it is a list or a map."""
        return self.proto.label == self.proto.LABEL_REPEATED

    @property
    def oneof(self) -> str | None:
        """The oneof that it is a member of; `optional` alone does not count."""
        if not self.proto.HasField("oneof_index") or self.proto.proto3_optional:
            return None
        return self.message.proto.oneof_decl[self.proto.oneof_index].name

    @property
    def contract(self) -> options_pb2.FieldContract | None:
        """Its replication options, if it has any."""
        if not self.proto.options.HasExtension(options_pb2.field):
            return None
        return self.proto.options.Extensions[options_pb2.field]


@dataclass(frozen=True)
class MessageNode:
    """A message; `name` is its full name."""

    name: str
    proto: descriptor_pb2.DescriptorProto = field(repr=False)
    source: Source = field(repr=False)

    @property
    def entity(self) -> options_pb2.EntityContract | None:
        """Its options as a replicated entity, if it is one."""
        if not self.proto.options.HasExtension(options_pb2.entity):
            return None
        return self.proto.options.Extensions[options_pb2.entity]

    @cached_property
    def fields(self) -> tuple[FieldNode, ...]:
        """Its fields, in the order of the file."""
        return tuple(
            FieldNode(
                proto,
                self.source.inner(_MESSAGE_FIELD, index, _FIELD_OPTIONS),
                self,
            )
            for index, proto in enumerate(self.proto.field)
        )

    def field(self, name: str) -> FieldNode | None:
        """The field of that name."""
        return next((field for field in self.fields if field.name == name), None)


@dataclass(frozen=True)
class MethodNode:
    """A method; its options are empty if it declares none."""

    service: ServiceNode = field(repr=False)
    proto: descriptor_pb2.MethodDescriptorProto
    source: Source = field(repr=False)

    @property
    def name(self) -> str:
        """``package.Service/Method``."""
        return f"{self.service.name}/{self.proto.name}"

    @property
    def contract(self) -> options_pb2.MethodContract:
        """Its options."""
        return self.proto.options.Extensions[options_pb2.method]

    @property
    def streaming(self) -> bool:
        """Whether either side streams."""
        return self.proto.client_streaming or self.proto.server_streaming


@dataclass(frozen=True)
class ServiceNode:
    """A service; `name` is its full name."""

    name: str
    proto: descriptor_pb2.ServiceDescriptorProto = field(repr=False)
    source: Source = field(repr=False)

    @property
    def contract(self) -> options_pb2.ServiceContract:
        """Its options; empty if it declares none."""
        return self.proto.options.Extensions[options_pb2.service]

    @cached_property
    def methods(self) -> tuple[MethodNode, ...]:
        """Its methods, in the order of the file."""
        return tuple(
            MethodNode(
                self,
                proto,
                self.source.inner(_SERVICE_METHOD, index, _METHOD_OPTIONS),
            )
            for index, proto in enumerate(self.proto.method)
        )


@dataclass(frozen=True)
class ValueNode:
    """A value of an enum."""

    proto: descriptor_pb2.EnumValueDescriptorProto
    source: Source
    enum: EnumNode = field(repr=False)

    @property
    def full_name(self) -> str:
        """Enum and value."""
        return f"{self.enum.name}.{self.proto.name}"


@dataclass(frozen=True)
class EnumNode:
    """An enum; `name` is its full name."""

    name: str
    proto: descriptor_pb2.EnumDescriptorProto = field(repr=False)
    source: Source = field(repr=False)

    @cached_property
    def values(self) -> tuple[ValueNode, ...]:
        """Its values, in the order of the file."""
        return tuple(
            ValueNode(proto, self.source.inner(_ENUM_VALUE, index, _VALUE_OPTIONS), self)
            for index, proto in enumerate(self.proto.value)
        )


@dataclass(frozen=True)
class FileNode:
    """A file."""

    proto: descriptor_pb2.FileDescriptorProto = field(repr=False)
    source: Source = field(repr=False)

    @property
    def name(self) -> str:
        """Its path, as imports name it."""
        return self.proto.name


class Schema:
    """All services, messages and enums of a descriptor set."""

    def __init__(self, descriptors: descriptor_pb2.FileDescriptorSet) -> None:
        # Parsed afresh, so that options read before their module was imported are seen as well.
        parsed = descriptor_pb2.FileDescriptorSet.FromString(descriptors.SerializeToString())
        self.services: dict[str, ServiceNode] = {}
        self.messages: dict[str, MessageNode] = {}
        self.enums: dict[str, EnumNode] = {}
        self.files: list[FileNode] = []
        for file in parsed.file:
            lines = {
                tuple(location.path): location.span[0] + 1
                for location in file.source_code_info.location
            }
            whole = Source(file.name, lines, (), _FILE_OPTIONS)
            self.files.append(FileNode(file, whole))
            prefix = f"{file.package}." if file.package else ""
            for index, service in enumerate(file.service):
                name = prefix + service.name
                source = whole.inner(_FILE_SERVICE, index, _SERVICE_OPTIONS)
                self.services[name] = ServiceNode(name, service, source)
            for index, message in enumerate(file.message_type):
                self._add(prefix, message, whole.inner(_FILE_MESSAGE, index, _MESSAGE_OPTIONS))
            for index, enum in enumerate(file.enum_type):
                self._add_enum(prefix, enum, whole.inner(_FILE_ENUM, index, _ENUM_OPTIONS))

    def _add(self, prefix: str, proto: descriptor_pb2.DescriptorProto, source: Source) -> None:
        name = prefix + proto.name
        self.messages[name] = MessageNode(name, proto, source)
        for index, nested in enumerate(proto.nested_type):
            self._add(f"{name}.", nested, source.inner(_MESSAGE_NESTED, index, _MESSAGE_OPTIONS))
        for index, enum in enumerate(proto.enum_type):
            self._add_enum(f"{name}.", enum, source.inner(_MESSAGE_ENUM, index, _ENUM_OPTIONS))

    def _add_enum(
        self, prefix: str, proto: descriptor_pb2.EnumDescriptorProto, source: Source
    ) -> None:
        self.enums[prefix + proto.name] = EnumNode(prefix + proto.name, proto, source)

    def methods(self) -> Iterator[MethodNode]:
        """Every method."""
        for service in self.services.values():
            yield from service.methods

    def entities(self) -> Iterator[MessageNode]:
        """Every message that is marked as an entity."""
        return (message for message in self.messages.values() if message.entity is not None)

    def homed(self, method: MethodNode) -> list[MessageNode]:
        """The entities with a home, of the group of a method's workload, that its request names.

        It does so by a field of its own that is called as the entity's key.
        """
        workload = method.service.contract.workload
        groups = {
            service.contract.group
            for service in self.services.values()
            if service.contract.workload == workload and service.contract.group
        }
        request = self.messages.get(method.proto.input_type.lstrip("."))
        found = []
        for message in self.entities():
            entity = message.entity
            if entity is None or entity.home != options_pb2.HOME_ONE_REGION:
                continue
            field = request.field(entity.key) if request is not None else None
            plain = field is not None and field.type == "string" and not field.repeated
            if entity.group in groups and plain:
                found.append(message)
        return found
