"""Server reflection, for operators: grpcurl lists and describes what an instance serves."""

from __future__ import annotations

from collections.abc import Iterable

import grpc
from grpc_reflection.v1alpha import reflection


def add_reflection(server: grpc.aio.Server, services: Iterable[str]) -> None:
    """Serves reflection that lists `services` and itself."""
    reflection.enable_server_reflection([*services, reflection.SERVICE_NAME], server)
