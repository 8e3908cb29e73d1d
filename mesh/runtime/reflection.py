"""Server reflection, for operators: grpcurl lists and describes what an instance serves."""

from __future__ import annotations

from collections.abc import Iterable

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from mesh.contracts.read import descriptors


def add_reflection(server: grpc.aio.Server, services: Iterable[str]) -> None:
    """Serves reflection that lists `services` and itself.

    Every message of the contract can be described, also those that this process never imported,
    and so can the details of its errors.
    """
    pool = DescriptorPool()
    for file in descriptors().file:
        pool.Add(file)
    for module in (health_pb2, reflection_pb2, error_details_pb2):
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    reflection.enable_server_reflection([*services, reflection.SERVICE_NAME], server, pool=pool)
