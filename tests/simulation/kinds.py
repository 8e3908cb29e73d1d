"""The entities of simulated groups: the first letter of a key says which one it is of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message
from isthmus.channels.v1 import channel_pb2
from isthmus.replication.v1 import member_pb2

from mesh.replication.membership import ENTITY as MEMBERS
from mesh.replication.schema import GroupSchema
from tests.support import items, merging
from tests.support.items import Item
from tests.support.merging import THING, Thing
from tests.support.regions import CHANNEL, SCHEMA

Rules = Mapping[str, tuple[str, Any]]
"""By field its merge rule, as the model names them, and how it reads before it is written."""


@dataclass(frozen=True)
class Kind:
    """An entity: its message type, its class, its merge schema, and what the model knows of it."""

    name: str
    message_class: type[Message]
    schema: GroupSchema
    key: str
    rules: Rules


_KINDS = {
    "c": Kind(
        CHANNEL,
        channel_pb2.Channel,
        SCHEMA,
        "channel_id",
        {
            "title": ("latest", ""),
            "profile.width": ("latest", 0),
            "profile.height": ("latest", 0),
            "takeovers": ("sum", 0),
            "labels": ("set", ()),
            "assignment": ("max", (0, "")),
        },
    ),
    "t": Kind(
        THING,
        Thing,
        merging.SCHEMA,
        "id",
        {
            "latest": ("latest", ""),
            "first": ("first", ""),
            "most": ("max", 0),
            "least": ("min", None),
            "count": ("sum", 0),
            "stock": ("sum", 0),
            "labels": ("set", ()),
            "tags": ("map", ()),
            "note": ("both", ""),
        },
    ),
    "i": Kind(items.ITEM, Item, items.SCHEMA, "id", dict.fromkeys(items.NAMES, ("latest", ""))),
}
_WORDS = ("title", "latest", "first", "second", "third", "note", "home_region")


def kind_of(key: str) -> Kind:
    """Of which entity a key is."""
    return _KINDS[key[0]]


def class_of(name: str) -> type[Message]:
    """The class of a message type."""
    if name == MEMBERS.name:
        return member_pb2.Members
    return next(kind.message_class for kind in _KINDS.values() if kind.name == name)


def value(message: Message, name: str) -> Any:
    """A field's value in the model's terms."""
    found: Any = message
    if name == "labels":
        return frozenset(found.labels)
    if name == "assignment":
        return found.assignment.epoch, found.assignment.region
    if name == "least":
        return found.least if found.HasField("least") else None
    if name == "tags":
        return frozenset(found.tags)
    if name.startswith("tags."):
        return dict(found.tags).get(name[5:])
    for part in name.split("."):
        found = getattr(found, part)
    return found


def parse(fields: tuple[str, ...]) -> dict[str, Any]:
    """Fields as a script has them in the model's terms; `assignment.epoch` and `.region` are one.

    A map is a dict, or a tuple of keys to be removed.
    """
    values: dict[str, Any] = {}
    for field in fields:
        name, _, text = field.partition("=")
        if name == "labels" or (name == "tags" and ":" not in text):
            values[name] = tuple(text.split(","))
        elif name == "tags":
            values[name] = dict(entry.split(":") for entry in text.split(","))
        elif name.startswith("assignment."):
            epoch, region = values.get("assignment", (0, ""))
            values["assignment"] = (epoch, text) if name.endswith("region") else (int(text), region)
        else:
            values[name] = text if name in _WORDS else int(text)
    return values


def message(key: str, values: Mapping[str, Any]) -> Message:
    """The message with these values."""
    kind = kind_of(key)
    made: Any = kind.message_class(**{kind.key: key})
    for name, each in values.items():
        if name == "labels":
            made.labels.extend(each)
        elif name == "tags":
            made.tags.update(each)
        elif name == "assignment":
            made.assignment.epoch, made.assignment.region = each
        else:
            *way, last = name.split(".")
            parent = made
            for part in way:
                parent = getattr(parent, part)
            setattr(parent, last, each)
    return made
