"""JSON over plain HTTP at an edge: translated to gRPC by the contract's `google.api.http`."""

from __future__ import annotations

from envoy_data_plane.envoy.extensions.filters.http.grpc_json_transcoder import v3 as transcoder
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm
from google.protobuf import descriptor_pb2

from mesh.contracts.model import Contract
from mesh.envoy import outside
from mesh.envoy.text import Packed

FILTER = "envoy.filters.http.grpc_json_transcoder"
MOST_RESPONSE = 16 * 1024 * 1024
"""Bytes of a message that is told as JSON: as large as clients of gRPC take it."""


def json(contract: Contract) -> hcm.HttpFilter | None:
    """The filter; None if no method has a JSON form.

    The route is chosen again by the method's own path, so its policy is the same as by gRPC.
    """
    if not contract.transcoding:
        return None
    config = transcoder.GrpcJsonTranscoder(
        proto_descriptor_bin=contract.transcoding,
        services=_services(contract.transcoding),
        # One message a line, so that a reader sees each as it comes.
        print_options=transcoder.GrpcJsonTranscoderPrintOptions(stream_newline_delimited=True),
        convert_grpc_status=True,
        request_validation_options=transcoder.GrpcJsonTranscoderRequestValidationOptions(
            reject_unknown_query_parameters=True, reject_binding_body_field_collisions=True
        ),
        max_request_body_size=outside.MOST_BODY,
        max_response_body_size=MOST_RESPONSE,
    )
    return hcm.HttpFilter(name=FILTER, typed_config=Packed(config))


def _services(descriptors: bytes) -> list[str]:
    found = descriptor_pb2.FileDescriptorSet.FromString(descriptors)
    return [f"{file.package}.{each.name}" for file in found.file for each in file.service]
