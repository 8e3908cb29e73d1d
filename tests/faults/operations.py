"""What clients ask a region to do, in JSON, and what it answers of an entity.

A write is a list of operations `[verb, key, ...]`, done in one transaction. Its result is kept with
the write, so that a repeat returns it: which attempt did it, and what it saw before it wrote.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from google.protobuf.wrappers_pb2 import StringValue

from mesh.replication import Group, Transaction, conflicts, residency
from mesh.replication.core import rendering
from mesh.replication.core.entities import EntityState
from tests.support.merging import SCHEMA, THING, Thing

State = dict[str, Any]


def state_of(state: EntityState | None, key: str) -> State:
    """An entity as clients record it; generation 0 if it was never there."""
    if state is None:
        return {"generation": 0, "deleted": True}
    if state.deleted:
        return {"generation": state.generation, "deleted": True}
    schema = SCHEMA.entities[THING]
    thing = Thing.FromString(rendering.render(state, schema.rules, schema.key_field(key)))
    return {
        "generation": state.generation,
        "deleted": False,
        "latest": thing.latest,
        "first": thing.first,
        "most": thing.most,
        "least": thing.least if thing.HasField("least") else None,
        "count": thing.count,
        "stock": thing.stock,
        "labels": sorted(thing.labels),
        "tags": dict(thing.tags),
        "note": [value.message.note for value in conflicts.versions(state, schema, "note")],
    }


def read(group: Group, keys: list[str]) -> dict[str, State]:
    """What readers see of some entities, at one moment."""
    return {key: state_of(group.journal.committed.get((THING, key)), key) for key in keys}


def change(group: Group, uid: str, operations: list[Any]) -> Callable[[Transaction], StringValue]:
    """The write of an attempt called `uid`."""
    keys = sorted({operation[1] for operation in operations})

    def run(transaction: Transaction) -> StringValue:
        found = {key: group.journal.look((THING, key)) for key in keys}
        saw = {
            key: state_of(state, key) | _next(transaction, state) for key, state in found.items()
        }
        for verb, key, *arguments in operations:
            _VERBS[verb](transaction, key, *arguments)
        return StringValue(value=json.dumps({"by": uid, "saw": saw}))

    return run


def _next(transaction: Transaction, state: EntityState | None) -> State:
    """The life that a creation begins."""
    schema, now_ms = SCHEMA.entities[THING], transaction.now_ms
    return {"next": residency.generation_of_new(schema, state, transaction.region, now_ms)}


def _create(transaction: Transaction, key: str, fields: dict[str, Any]) -> None:
    transaction.create(Thing(id=key, **fields))


def _set(transaction: Transaction, key: str, field: str, value: Any) -> None:
    transaction.set(Thing(id=key, **{field: value}), field)


_VERBS: dict[str, Callable[..., None]] = {
    "create": _create,
    "delete": lambda tx, key: tx.delete(Thing, key),
    "set": _set,
    "increment": lambda tx, key, field, by: tx.increment(Thing, key, field, by),
    "add": lambda tx, key, value: tx.add(Thing, key, "labels", value),
    "remove": lambda tx, key, value: tx.remove(Thing, key, "labels", value),
    "put": lambda tx, key, name, value: tx.put(Thing, key, "tags", {name: value}),
    "drop": lambda tx, key, name: tx.remove(Thing, key, "tags", name),
}
