"""What of a message is not to be shown: values marked so, and those that stay in a home region."""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from isthmus.options.v1 import options_pb2


def strip(message: Message, path: str = "") -> list[str]:
    """Clears what is marked `debug_redact`, or stays in a home region, at any depth.

    Returns the paths of what was there, below `path`.
    """
    marked: list[str] = []
    for field, value in message.ListFields():
        name = f"{path}{field.name}"
        options = field.GetOptions()
        stays = options.Extensions[options_pb2.field].scope == options_pb2.SCOPE_HOME_REGION
        if options.debug_redact or stays or _is_sealed(field):
            message.ClearField(field.name)
            marked.append(name)
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            for child in _messages(field, value):
                marked += strip(child, f"{name}.")
    return marked


def _is_sealed(field: FieldDescriptor) -> bool:
    """Whether it holds a message of any type: what is marked in that, nobody sees from here."""
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        kind = kind.fields_by_name["value"].message_type
    return kind is not None and kind.full_name == "google.protobuf.Any"


def _messages(field: FieldDescriptor, value: Any) -> list[Message]:
    if not field.is_repeated:
        return [value]
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return [item for item in value.values() if isinstance(item, Message)]
    return list(value)
