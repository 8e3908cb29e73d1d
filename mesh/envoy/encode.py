"""Resources in Protobuf's binary form, deterministically: what xDS carries.

betterproto2's own serialiser validates each message again, knows no `Packed`, and takes ten times
as long. As in `mesh.envoy.text`, a field that holds what it holds when unset is left out; entries
of maps are in the order of their keys, so equal messages are equal bytes.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Callable
from functools import cache
from typing import Any

import betterproto2

from mesh.envoy.text import Packed, Shared
from mesh.envoy.wire import LENGTH, tagged, varint

_Encoder = Callable[[Any], bytes]
_VARINT, _FIXED_64, _FIXED_32 = 0, 1, 5
_INTEGERS = frozenset({"enum", "bool", "int32", "int64", "uint32", "uint64"})


def encode(message: betterproto2.Message) -> bytes:
    """The bytes of a message, those inside a `Packed` included."""
    if isinstance(message, Shared):
        if message.kept is None:
            message.kept = _any(message.type_url, encode(message.message))
        return message.kept
    if isinstance(message, Packed):
        return _any(message.type_url, encode(message.message))
    return b"".join(
        [
            write(value)
            for name, unset, write in _fields(type(message))
            if (value := getattr(message, name)) is not None and value != unset
        ]
    )


def _any(type_url: str, value: bytes) -> bytes:
    return tagged(1, type_url.encode()) + tagged(2, value)


@cache
def _fields(kind: type[betterproto2.Message]) -> list[tuple[str, Any, _Encoder]]:
    """The fields of a message by number: name, what it holds when unset, what writes it."""
    unset: Any = kind()  # every message is a dataclass, which its base class does not say
    found = [
        (betterproto2.FieldMetadata.get(field), field.name) for field in dataclasses.fields(unset)
    ]
    return [
        (name, getattr(unset, name), _writer(meta))
        for meta, name in sorted(found, key=lambda each: each[0].number)
    ]


def _writer(meta: betterproto2.FieldMetadata) -> _Encoder:
    if meta.map_meta is not None:
        key, value = (_single(part) for part in meta.map_meta)
        return lambda entries: b"".join(
            [tagged(meta.number, key(k) + value(entries[k])) for k in sorted(entries)]
        )
    if not meta.repeated:
        return _single(meta)
    wire, content = _content(meta)
    if wire != LENGTH:  # packed, as proto3 has it
        return lambda values: tagged(meta.number, b"".join([content(v) for v in values]))
    single = _single(meta)
    return lambda values: b"".join([single(value) for value in values])


def _single(meta: betterproto2.FieldMetadata) -> _Encoder:
    wire, content = _content(meta)
    tag = varint(meta.number << 3 | wire)
    if wire != LENGTH:
        return lambda value: tag + content(value)

    def write(value: Any) -> bytes:
        data = content(value)
        return tag + varint(len(data)) + data

    return write


def _content(meta: betterproto2.FieldMetadata) -> tuple[int, _Encoder]:
    """The wire type of one value, and what writes it without its tag."""
    match meta.proto_type:
        case kind if kind in _INTEGERS:
            return _VARINT, varint
        case "sint32" | "sint64":
            return _VARINT, lambda value: varint(value << 1 ^ value >> 63)
        case "float" | "fixed32" | "sfixed32":
            form = struct.Struct({"float": "<f", "fixed32": "<I"}.get(meta.proto_type, "<i"))
            return _FIXED_32, form.pack
        case "double" | "fixed64" | "sfixed64":
            form = struct.Struct({"double": "<d", "fixed64": "<Q"}.get(meta.proto_type, "<q"))
            return _FIXED_64, form.pack
        case "string":
            return LENGTH, str.encode
        case "bytes":
            return LENGTH, bytes
    if meta.unwrap is None:
        return LENGTH, encode
    wrapper: Any = meta.unwrap()  # `BoolValue`, `Duration`, ...: how betterproto2 spells them
    return LENGTH, lambda value: encode(wrapper.from_wrapped(value))
