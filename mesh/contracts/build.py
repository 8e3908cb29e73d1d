"""From a schema that the rules accepted to the typed contract, and its digests."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from google.protobuf import descriptor_pb2, duration_pb2
from isthmus.options.v1 import options_pb2

from mesh.contracts.bindings import HTTP, bindings
from mesh.contracts.model import (
    Callers,
    Consistency,
    Contract,
    Durability,
    Entity,
    Field,
    Idempotency,
    Locality,
    Merge,
    Method,
    RateLimit,
    Retry,
    Role,
    Service,
)
from mesh.contracts.schema import METHOD, MessageNode, MethodNode, Schema, ServiceNode

_ROLES = {
    options_pb2.ROLE_OPERATOR: Role.OPERATOR,
    options_pb2.ROLE_DEVICE: Role.DEVICE,
    options_pb2.ROLE_UNENROLLED: Role.UNENROLLED,
}
_LOCALITIES = {
    options_pb2.LOCALITY_UNSPECIFIED: Locality.LOCAL,
    options_pb2.LOCALITY_NEAREST: Locality.NEAREST,
    options_pb2.LOCALITY_LOCAL: Locality.LOCAL,
    options_pb2.LOCALITY_PINNED: Locality.PINNED,
    options_pb2.LOCALITY_HOME: Locality.HOME,
}
_CONSISTENCIES = {
    options_pb2.CONSISTENCY_UNSPECIFIED: Consistency.EVENTUAL,
    options_pb2.CONSISTENCY_EVENTUAL: Consistency.EVENTUAL,
    options_pb2.CONSISTENCY_SESSION: Consistency.SESSION,
}
_DURABILITIES = {
    options_pb2.DURABILITY_UNSPECIFIED: Durability.REGION,
    options_pb2.DURABILITY_REGION: Durability.REGION,
    options_pb2.DURABILITY_ONE_PEER: Durability.ONE_PEER,
    options_pb2.DURABILITY_MAJORITY: Durability.MAJORITY,
}
_IDEMPOTENCY = {
    descriptor_pb2.MethodOptions.IDEMPOTENCY_UNKNOWN: Idempotency.UNKNOWN,
    descriptor_pb2.MethodOptions.NO_SIDE_EFFECTS: Idempotency.NO_SIDE_EFFECTS,
    descriptor_pb2.MethodOptions.IDEMPOTENT: Idempotency.IDEMPOTENT,
}
_IDEMPOTENCY_LEVEL = descriptor_pb2.MethodOptions.IDEMPOTENCY_LEVEL_FIELD_NUMBER


def build(schema: Schema) -> Contract:
    """The contract that a schema declares. The schema must have no findings."""
    services = {name: _service(schema, node) for name, node in sorted(schema.services.items())}
    entities = {
        node.name: _entity(schema, node)
        for node in sorted(schema.entities(), key=lambda node: node.name)
    }
    groups = sorted({entity.group for entity in entities.values()})
    group_digests = {
        group: _digest([_entity_terms(e) for e in entities.values() if e.group == group])
        for group in groups
    }
    terms = {
        "services": [_service_terms(service) for service in services.values()],
        "entities": [_entity_terms(entity) for entity in entities.values()],
    }
    return Contract(services, entities, _digest(terms), group_digests)


def seconds(duration: duration_pb2.Duration) -> float:
    """A duration in seconds."""
    return duration.seconds + duration.nanos / 1e9


def _service(schema: Schema, node: ServiceNode) -> Service:
    contract = node.contract
    return Service(
        name=node.name,
        workload=contract.workload,
        group=contract.group or None,
        owner=contract.owner,
        runbook=contract.runbook,
        methods=tuple(method_of(schema, method) for method in node.methods),
        location=node.source.at(),
    )


def method_of(schema: Schema, node: MethodNode) -> Method:
    """What the options of one method say; a role that is not named is nobody."""
    contract, proto = node.contract, node.proto
    retry = contract.retry
    named = schema.homed(node) if contract.locality == options_pb2.LOCALITY_HOME else []
    return Method(
        service=node.service.name,
        name=proto.name,
        request=proto.input_type.lstrip("."),
        response=proto.output_type.lstrip("."),
        client_streaming=proto.client_streaming,
        server_streaming=proto.server_streaming,
        callers=Callers(
            workloads=frozenset(contract.callers.workloads),
            roles=frozenset(_ROLES[role] for role in contract.callers.roles if role in _ROLES),
            peers=contract.callers.peers,
            any_workload=contract.callers.any_workload,
        ),
        idempotency=_IDEMPOTENCY[proto.options.idempotency_level],
        locality=_LOCALITIES[contract.locality],
        consistency=_CONSISTENCIES[contract.consistency],
        durability=_DURABILITIES[contract.durability],
        timeout=seconds(contract.timeout) if contract.HasField("timeout") else None,
        stream_max_age=(
            seconds(contract.stream_max_age) if contract.HasField("stream_max_age") else None
        ),
        retry=(
            Retry(retry.attempts, seconds(retry.per_try)) if contract.HasField("retry") else None
        ),
        rate_limit=_rate_limit(contract),
        location=node.source.at(),
        entity=named[0].name if named else "",
        key=named[0].entity.key if named and named[0].entity else "",
        lines=tuple(_lines(node)),
        http=bindings(node),
    )


def _lines(node: MethodNode) -> Iterator[tuple[str, int]]:
    for field, _ in node.contract.ListFields():
        yield field.name, node.source.at(METHOD, field.number).line
    if node.proto.options.HasField("idempotency_level"):
        yield "idempotency_level", node.source.at(_IDEMPOTENCY_LEVEL).line
    if bindings(node):
        yield "google.api.http", node.source.at(HTTP).line


def _rate_limit(contract: options_pb2.MethodContract) -> RateLimit | None:
    limit = contract.rate_limit
    if not contract.HasField("rate_limit"):
        return None
    return RateLimit(limit.per_second, limit.burst or limit.per_second)


def _entity(schema: Schema, node: MessageNode) -> Entity:
    contract = node.entity
    assert contract is not None  # noqa: S101 - `Schema.entities` yields nothing else
    key = node.field(contract.key)
    assert key is not None  # noqa: S101 - a rule refuses an entity without its key
    return Entity(
        name=node.name,
        group=contract.group,
        key=contract.key,
        key_number=key.proto.number,
        history=contract.history,
        fields=_fields(schema, node, (), skip=contract.key),
        location=node.source.at(),
        home=contract.home_field,
    )


def _fields(
    schema: Schema,
    node: MessageNode,
    above: tuple[int, ...],
    skip: str = "",
    *,
    resident: bool = False,
) -> tuple[Field, ...]:
    fields = []
    for item in node.fields:
        if item.name == skip or item.contract is None:
            continue
        merge = Merge(item.contract.merge)
        path = (*above, item.proto.number)
        stays = resident or item.contract.scope == options_pb2.SCOPE_HOME_REGION
        fields.append(
            Field(
                name=item.name,
                number=item.proto.number,
                path=path,
                merge=merge,
                order_by=tuple(item.contract.order_by),
                fields=(
                    _fields(schema, schema.messages[item.type], path, resident=stays)
                    if merge is Merge.MESSAGE
                    else ()
                ),
                at_least=item.contract.at_least if item.contract.HasField("at_least") else None,
                type=item.type,
                repeated=item.repeated,
                resident=stays,
            )
        )
    return tuple(fields)


def _service_terms(service: Service) -> Mapping[str, Any]:
    return {
        "name": service.name,
        "workload": service.workload,
        "group": service.group,
        "owner": service.owner,
        "runbook": service.runbook,
        "methods": [_method_terms(method) for method in service.methods],
    }


def _method_terms(method: Method) -> Mapping[str, Any]:
    return {
        "name": method.name,
        "request": method.request,
        "response": method.response,
        "streaming": [method.client_streaming, method.server_streaming],
        "callers": {
            "workloads": sorted(method.callers.workloads),
            "roles": sorted(role.value for role in method.callers.roles),
            "peers": method.callers.peers,
            "any_workload": method.callers.any_workload,
        },
        "idempotency": method.idempotency.value,
        "locality": method.locality.value,
        "consistency": method.consistency.value,
        "durability": method.durability.value,
        "timeout": method.timeout,
        "stream_max_age": method.stream_max_age,
        "retry": [method.retry.attempts, method.retry.per_try] if method.retry else None,
        "rate_limit": (
            [method.rate_limit.per_second, method.rate_limit.burst] if method.rate_limit else None
        ),
        "http": [[binding.verb, binding.path, binding.body] for binding in method.http],
    }


def _entity_terms(entity: Entity) -> Mapping[str, Any]:
    return {
        "name": entity.name,
        "group": entity.group,
        "key": entity.key_number,
        "history": entity.history,
        "home": next((f.number for f in entity.fields if f.name == entity.home), None),
        "fields": [_field_terms(field) for field in entity.fields],
    }


def _field_terms(field: Field) -> Mapping[str, Any]:
    # Without the name: it is not on the wire, so a rename changes nothing that is replicated.
    return {
        "path": list(field.path),
        "type": field.type,
        "repeated": field.repeated,
        "merge": field.merge.value,
        "order_by": list(field.order_by),
        "at_least": field.at_least,
        "resident": field.resident,
        "fields": [_field_terms(inner) for inner in field.fields],
    }


def _digest(terms: Any) -> bytes:
    """SHA-256 of the terms as JSON with sorted keys and no spaces (the form of RFC 8785)."""
    text = json.dumps(terms, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).digest()
