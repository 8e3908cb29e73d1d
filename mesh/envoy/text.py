"""Resources as the JSON that Envoy reads, in the names of Envoy's own documentation.

betterproto2's own `to_dict` reads each class's annotations again for each message, which takes a
second for one sidecar, and spells `consecutive_5xx` in a way that Envoy does not know.
"""

from __future__ import annotations

import base64
import dataclasses
import enum
import json
from datetime import timedelta
from functools import cache
from typing import Any

import betterproto2
from envoy_data_plane.google import protobuf


class Packed(protobuf.Any):
    """An `Any` that keeps its message, for JSON alone: it has no bytes.

    Serialising each filter only to parse it again took two thirds of a compilation.
    """

    def __init__(self, message: betterproto2.Message) -> None:
        super().__init__(type_url=type_url(type(message)))
        self.message = message


class Shared(Packed):
    """One that many resources hold and nobody changes: its bytes are kept, once there are any."""

    def __init__(self, message: betterproto2.Message) -> None:
        super().__init__(message)
        self.kept: bytes | None = None


def text(message: betterproto2.Message) -> str:
    """Deterministic, indented JSON that ends in a newline."""
    return json.dumps(_json(message), indent=2, ensure_ascii=False) + "\n"


def _json(value: Any) -> Any:
    """The proto3 JSON mapping of a field's value."""
    match value:
        case Packed():
            return {"@type": value.type_url, **_json(value.message)}
        case protobuf.Any():
            # Of a message that was parsed. Its class is known if something of ours can make one.
            return {"@type": value.type_url, **_json(value.unpack())}
        case protobuf.Struct():
            return value.to_dict()
        case betterproto2.Message():
            return {
                name.rstrip("_"): _json(found)
                for name, default in _fields(type(value))
                if (found := getattr(value, name)) != default
            }
        case enum.Enum():
            return value.name
        case timedelta():
            return f"{value / timedelta(seconds=1):.3f}".rstrip("0").rstrip(".") + "s"
        case bytes():
            return base64.b64encode(value).decode()
        case list():
            return [_json(item) for item in value]
        case dict():
            return {key: _json(item) for key, item in value.items()}
    return value


@cache
def type_url(kind: type[betterproto2.Message]) -> str:
    """What an `Any` calls a type."""
    return protobuf.Any.pack(kind()).type_url


@cache
def _fields(kind: type[betterproto2.Message]) -> list[tuple[str, Any]]:
    """The fields of a message with what they hold when unset."""
    unset: Any = kind()  # every message is a dataclass, which its base class does not say
    return [(field.name, getattr(unset, field.name)) for field in dataclasses.fields(unset)]
