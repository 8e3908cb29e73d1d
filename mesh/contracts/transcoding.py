"""The descriptors that an edge translates JSON by: what it carries, and no more.

A method that no role may call, or that has no `google.api.http`, is not in them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from google.api import annotations_pb2
from google.protobuf import any_pb2, descriptor_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from mesh.contracts.model import Contract

# What errors are told in; Envoy leaves out a body whose types it does not know.
_ERRORS = (any_pb2, duration_pb2, status_pb2, error_details_pb2)


def transcoding(image: descriptor_pb2.FileDescriptorSet, contract: Contract) -> bytes:
    """A serialized `FileDescriptorSet`; empty if no method has a JSON form."""
    carried = {method.path[1:] for method in contract.methods() if method.http}
    if not carried:
        return b""
    files = {file.name: _stripped(file, carried) for file in image.file}
    for module in _ERRORS:
        if module.DESCRIPTOR.name not in files:
            whole = descriptor_pb2.FileDescriptorProto()
            module.DESCRIPTOR.CopyToProto(whole)
            files[whole.name] = _stripped(whole, set())
    defined = {name: file.name for file in files.values() for name in _types(file)}
    wanted = [name for name, file in files.items() if file.service]
    wanted += [module.DESCRIPTOR.name for module in _ERRORS]
    kept: dict[str, descriptor_pb2.FileDescriptorProto] = {}
    for name in wanted:  # grows while it is read
        if name in kept:
            continue
        file = kept[name] = files[name]
        needed = sorted({defined[used] for used in _used(file)} - {name})
        del file.dependency[:], file.public_dependency[:], file.weak_dependency[:]
        file.dependency.extend(needed)
        wanted += needed
    return descriptor_pb2.FileDescriptorSet(file=_ordered(kept)).SerializeToString(
        deterministic=True
    )


def _stripped(
    file: descriptor_pb2.FileDescriptorProto, carried: set[str]
) -> descriptor_pb2.FileDescriptorProto:
    """The file without positions, comments, options, extensions and methods that are not carried.

    `google.api.http` stays.
    """
    # Parsed afresh, so that options read before their module was imported are seen as well.
    result = descriptor_pb2.FileDescriptorProto.FromString(file.SerializeToString())
    for part in ("source_code_info", "options", "extension"):
        result.ClearField(part)
    for message in result.message_type:
        _strip(message)
    for enum in result.enum_type:
        _strip_enum(enum)
    services = list(result.service)
    del result.service[:]
    prefix = f"{file.package}." if file.package else ""
    for service in services:
        methods = [m for m in service.method if f"{prefix}{service.name}/{m.name}" in carried]
        if methods:
            added = result.service.add(name=service.name)
            for method in methods:
                rule = method.options.Extensions[annotations_pb2.http]
                plain = added.method.add()
                plain.CopyFrom(method)
                plain.ClearField("options")
                plain.options.Extensions[annotations_pb2.http].CopyFrom(rule)
    return result


def _strip(message: descriptor_pb2.DescriptorProto) -> None:
    is_map = message.options.map_entry
    message.ClearField("options")
    message.ClearField("extension")
    if is_map:
        message.options.map_entry = True
    for field in message.field:
        packed = field.options.packed if field.options.HasField("packed") else None
        field.ClearField("options")
        if packed is not None:
            field.options.packed = packed
    for oneof in message.oneof_decl:
        oneof.ClearField("options")
    for enum in message.enum_type:
        _strip_enum(enum)
    for nested in message.nested_type:
        _strip(nested)


def _strip_enum(enum: descriptor_pb2.EnumDescriptorProto) -> None:
    aliased = enum.options.allow_alias
    enum.ClearField("options")
    if aliased:
        enum.options.allow_alias = True
    for value in enum.value:
        value.ClearField("options")


def _types(file: descriptor_pb2.FileDescriptorProto) -> Iterator[str]:
    """The full names, with a dot before, of the messages and enums of a file."""
    prefix = f".{file.package}" if file.package else ""
    yield from (f"{prefix}.{enum.name}" for enum in file.enum_type)
    for message in file.message_type:
        yield from _within(prefix, message)


def _within(prefix: str, message: descriptor_pb2.DescriptorProto) -> Iterator[str]:
    name = f"{prefix}.{message.name}"
    yield name
    yield from (f"{name}.{enum.name}" for enum in message.enum_type)
    for nested in message.nested_type:
        yield from _within(name, nested)


def _used(file: descriptor_pb2.FileDescriptorProto) -> Iterator[str]:
    for service in file.service:
        for method in service.method:
            yield from (method.input_type, method.output_type)
    for message in file.message_type:
        yield from _used_within(message)


def _used_within(message: descriptor_pb2.DescriptorProto) -> Iterator[str]:
    yield from (field.type_name for field in message.field if field.type_name)
    for nested in message.nested_type:
        yield from _used_within(nested)


def _ordered(
    files: Mapping[str, descriptor_pb2.FileDescriptorProto],
) -> list[descriptor_pb2.FileDescriptorProto]:
    """Each file after those that it needs, else by name."""
    done: dict[str, descriptor_pb2.FileDescriptorProto] = {}

    def add(name: str) -> None:
        if name not in done:
            for needed in files[name].dependency:
                add(needed)
            done[name] = files[name]

    for name in sorted(files):
        add(name)
    return list(done.values())
