"""The fields that replication sees: those of entities, and below them through MERGE_MESSAGE."""

from __future__ import annotations

from collections.abc import Iterator

from isthmus.options.v1 import options_pb2

from mesh.contracts.schema import FieldNode, MessageNode, Schema


def replicated(schema: Schema) -> Iterator[FieldNode]:
    """Every replicated field once, keys left out."""
    seen: set[str] = set()
    for entity in schema.entities():
        for field in nested(schema, entity):
            if field.full_name not in seen:
                seen.add(field.full_name)
                yield field


def nested(schema: Schema, entity: MessageNode) -> Iterator[FieldNode]:
    """An entity's replicated fields, its key left out; each message is entered once."""
    key = entity.entity.key if entity.entity else ""
    entered = {entity.name}
    waiting = [entity]
    while waiting:
        message = waiting.pop(0)
        for field in message.fields:
            if message is entity and field.name == key:
                continue
            yield field
            inner = inner_message(schema, field)
            if inner is not None and inner.name not in entered:
                entered.add(inner.name)
                waiting.append(inner)


def inner_message(schema: Schema, field: FieldNode) -> MessageNode | None:
    """The message that a field is merged into, if its rule is a legal MERGE_MESSAGE."""
    if (
        field.contract is None
        or field.contract.merge != options_pb2.MERGE_MESSAGE
        or not field.is_message
        or field.repeated
        or not mergeable(schema.messages.get(field.type))
    ):
        return None
    return schema.messages[field.type]


def mergeable(message: MessageNode | None) -> bool:
    """Whether a message can carry rules: ours to edit, and not an entity in its own right."""
    return (
        message is not None
        and message.entity is None
        and not message.name.startswith("google.protobuf.")
    )
