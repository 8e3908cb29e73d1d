"""The messages of xDS between bytes and values.

Of `envoy/service/discovery/v3/discovery.proto` this knows the fields that a server has a use for;
a node's long list of extensions is stepped over. Resources go into a response as the bytes that
they were encoded to once.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

from mesh.envoy.wire import tagged
from mesh.xds.delta import DeltaRequest
from mesh.xds.stream import Response
from mesh.xds.whole import WholeRequest

_PACKAGE = "envoy.service.discovery.v3"
SERVICE = f"{_PACKAGE}.AggregatedDiscoveryService"
DELTA_METHOD = "DeltaAggregatedResources"
WHOLE_METHOD = "StreamAggregatedResources"
_Field = descriptor_pb2.FieldDescriptorProto


class Malformed(Exception):
    """Bytes that are no request."""


def delta_request(data: bytes) -> DeltaRequest:
    """Reads a `DeltaDiscoveryRequest`. Raises `Malformed`."""
    found = _parse("DeltaDiscoveryRequest", data)
    return DeltaRequest(
        found.type_url,
        tuple(found.resource_names_subscribe),
        tuple(found.resource_names_unsubscribe),
        dict(found.initial_resource_versions),
        found.response_nonce,
        found.error_detail.message if found.HasField("error_detail") else None,
    )


def whole_request(data: bytes) -> WholeRequest:
    """Reads a `DiscoveryRequest`. Raises `Malformed`."""
    found = _parse("DiscoveryRequest", data)
    return WholeRequest(
        found.type_url,
        tuple(found.resource_names),
        found.version_info,
        found.response_nonce,
        found.error_detail.message if found.HasField("error_detail") else None,
    )


def delta_response(response: Response) -> bytes:
    """A `DeltaDiscoveryResponse`."""
    return b"".join(
        [
            tagged(1, response.version.encode()),
            *[each.delta for each in response.resources],
            tagged(4, response.type_url.encode()),
            tagged(5, response.nonce.encode()),
            *[tagged(6, name.encode()) for name in response.removed],
        ]
    )


def whole_response(response: Response) -> bytes:
    """A `DiscoveryResponse`."""
    return b"".join(
        [
            tagged(1, response.version.encode()),
            *[each.whole for each in response.resources],
            tagged(4, response.type_url.encode()),
            tagged(5, response.nonce.encode()),
        ]
    )


def _parse(name: str, data: bytes) -> Any:
    try:
        found: Any = _CLASSES[name].FromString(data)
    except message.DecodeError as error:
        raise Malformed(f"not a {name}: {error}") from None
    if not found.type_url:
        raise Malformed(f"a {name} names no type of resources")
    return found


def _classes() -> dict[str, type[message.Message]]:
    """The two requests, in a pool of their own: nobody else's `envoy` package is in the way."""
    file = descriptor_pb2.FileDescriptorProto(name="xds.proto", package=_PACKAGE, syntax="proto3")
    _declare(file.message_type.add(name="Status"), message=(2, "text"))
    _declare(
        file.message_type.add(name="DiscoveryRequest"),
        version_info=(1, "text"),
        resource_names=(3, "texts"),
        type_url=(4, "text"),
        response_nonce=(5, "text"),
        error_detail=(6, "Status"),
    )
    delta = file.message_type.add(name="DeltaDiscoveryRequest")
    entry = delta.nested_type.add(name="InitialResourceVersionsEntry")
    entry.options.map_entry = True
    _declare(entry, key=(1, "text"), value=(2, "text"))
    _declare(
        delta,
        type_url=(2, "text"),
        resource_names_subscribe=(3, "texts"),
        resource_names_unsubscribe=(4, "texts"),
        initial_resource_versions=(5, "DeltaDiscoveryRequest.InitialResourceVersionsEntry"),
        response_nonce=(6, "text"),
        error_detail=(7, "Status"),
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))
        for name in ("DiscoveryRequest", "DeltaDiscoveryRequest")
    }


def _declare(into: descriptor_pb2.DescriptorProto, **fields: tuple[int, str]) -> None:
    """Adds fields: `text`, `texts`, or the name of a message."""
    for name, (number, kind) in fields.items():
        repeated = kind == "texts" or kind.endswith("Entry")
        made = into.field.add(
            name=name,
            number=number,
            label=_Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL,
            type=_Field.TYPE_STRING if kind.startswith("text") else _Field.TYPE_MESSAGE,
        )
        if made.type == _Field.TYPE_MESSAGE:
            made.type_name = f".{_PACKAGE}.{kind}"


_CLASSES = _classes()
