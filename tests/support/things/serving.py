"""The process of the workload `things`: a whole runtime, and its own contract."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf import json_format
from google.protobuf.message import Message

from mesh.replication import Group, Transaction
from mesh.runtime import Host, call_context, host, run
from tests.support.things.contract import SERVICE, contract, message

ANSWER = message("Answer")
READS = ("Read", "ReadAny", "ReadOwn")
CHANGES = ("Change", "ChangeHere", "ChangeInTwo", "ChangeInMost")


class ThingService:
    """Does as it is told."""

    def __init__(self, group: Group) -> None:
        self._group = group

    async def change(self, request: Any, context: Any) -> Message:
        """Changes an entity, and answers what it is then to its writer."""
        return await self._change(request, request.type, request.key)

    async def change_at_home(self, request: Any, context: Any) -> Message:
        """The same of a person."""
        return await self._change(request, "Person", request.person_id)

    async def _change(self, request: Any, name: str, key: str) -> Message:
        kind = message(name)

        def change(tx: Transaction) -> Message:
            for verb, *arguments in json.loads(request.steps):
                _VERBS[verb](tx, kind, key, *arguments)
            found = tx.get(kind, key)
            return ANSWER(json=json.dumps(found and shown(found)))

        return await self._group.write(change, call_context(request))

    async def read(self, request: Any, context: Any) -> Message:
        """What the region has of an entity: its fields, what is kept of both, and its history."""
        kind = message(request.type)
        found = self._group.get(kind, request.key)
        answer: dict[str, Any] = {"region": self._group.region, "is": found and shown(found)}
        if found is not None:
            history = self._group.history(kind, request.key)
            answer["history"] = [[change.origin.region, *change.fields] for change in history]
            if request.type == "Thing":
                versions = self._group.versions(kind, request.key, "note")
                answer["notes"] = sorted(v.message.note for v in versions)  # type: ignore[attr-defined] # of class Thing
        return ANSWER(json=json.dumps(answer))


def shown(entity: Message) -> dict[str, Any]:
    """An entity as JSON."""
    return json_format.MessageToDict(entity, preserving_proto_field_name=True)


def _made(kind: type[Message], key: str, fields: dict[str, Any]) -> Message:
    made = kind(**{kind.DESCRIPTOR.fields[0].name: key})
    return json_format.ParseDict(fields, made)


_VERBS: dict[str, Callable[..., None]] = {
    "create": lambda tx, kind, key, fields: tx.create(_made(kind, key, fields)),
    "set": lambda tx, kind, key, fields, *paths: tx.set(
        _made(kind, key, fields), *(paths or fields)
    ),
    "increment": lambda tx, kind, key, field, by: tx.increment(kind, key, field, by),
    "add": lambda tx, kind, key, field, value: tx.add(kind, key, field, value),
    "remove": lambda tx, kind, key, field, *gone: tx.remove(kind, key, field, *gone),
    "put": lambda tx, kind, key, field, entries: tx.put(kind, key, field, entries),
    "move": lambda tx, kind, key, to: tx.move_home(kind, key, to),
}


async def build(host: Host) -> None:
    """Serves the one service."""
    assert host.group is not None
    service = ThingService(host.group)
    methods = dict.fromkeys(CHANGES, (service.change, "Order"))
    methods |= dict.fromkeys(READS, (service.read, "Order"))
    methods["ChangeAtHome"] = (service.change_at_home, "OfPerson")

    def register(_: Any, server: grpc.aio.Server) -> None:
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                does,
                request_deserializer=message(kind).FromString,
                response_serializer=ANSWER.SerializeToString,
            )
            for name, (does, kind) in methods.items()
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))

    host.add(register, service, SERVICE)


if __name__ == "__main__":
    host.load_contract = contract
    run("things", build)
