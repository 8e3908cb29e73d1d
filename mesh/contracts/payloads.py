"""gRPC bodies in words: what an operator may see of them.

What is marked `debug_redact`, stays in a home region, or is not in the contract is not shown, and
nothing is ever shown as bytes that could not be read.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError, Message

from mesh.contracts import redaction
from mesh.contracts.read import image

MOST_MESSAGES = 16
"""Messages of one body that are shown."""

REDACTED = "[redacted]"
UNREADABLE = '"[unreadable]"'

_HEAD = 5  # a byte of flags, four of length


def shown(type_name: str, body: bytes) -> tuple[list[str], bool]:
    """The length-prefixed messages of a body as JSON, each of that type; whether that is all."""
    factory = _message_class(type_name)
    found: list[str] = []
    for data in _messages(body):
        if data is None or len(found) == MOST_MESSAGES:
            return found, False
        found.append(UNREADABLE if factory is None else _json(factory, data))
    return found, True


def _messages(body: bytes) -> Iterator[bytes | None]:
    """Each message; None for one that is cut off, or compressed, and for what comes after it."""
    at = 0
    while at < len(body):
        end = at + _HEAD + int.from_bytes(body[at + 1 : at + _HEAD], "big")
        if len(body) < at + _HEAD or end > len(body) or body[at] & 1:
            yield None
            return
        yield body[at + _HEAD : end]
        at = end


def _json(factory: type[Message], data: bytes) -> str:
    try:
        message = factory.FromString(data)
    except DecodeError:
        return UNREADABLE
    marked = redaction.strip(message)
    try:
        said: dict[str, Any] = MessageToDict(message, preserving_proto_field_name=True)
    except (TypeError, ValueError):  # an Any of an unknown type
        return UNREADABLE
    for path in marked:
        said[path] = REDACTED
    return json.dumps(said, ensure_ascii=False)


def _message_class(name: str) -> type[Message] | None:
    pool = descriptor_pool.Default()
    try:
        found = pool.FindMessageTypeByName(name)
    except KeyError:
        _import_contract()
        try:
            found = pool.FindMessageTypeByName(name)
        except KeyError:
            return None
    return message_factory.GetMessageClass(found)


def _import_contract() -> None:
    """Makes known what the contract's files say, as far as they were generated for Python."""
    for file in descriptor_pb2.FileDescriptorSet.FromString(image()).file:
        module = file.name.removesuffix(".proto").replace("/", ".") + "_pb2"
        try:
            importlib.import_module(module)
        except ModuleNotFoundError:
            continue
