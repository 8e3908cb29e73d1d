"""An OpenTelemetry collector for tests: keeps the spans that it receives over OTLP."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent import futures
from dataclasses import dataclass
from typing import Any

import grpc
from opentelemetry.proto.collector.metrics.v1 import (
    metrics_service_pb2,
    metrics_service_pb2_grpc,
)
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc


@dataclass(frozen=True)
class ReceivedSpan:
    """One span, with the resource that sent it."""

    service: str
    region: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    links: tuple[tuple[str, str], ...]
    attributes: dict[str, Any]


class Collector(
    trace_service_pb2_grpc.TraceServiceServicer, metrics_service_pb2_grpc.MetricsServiceServicer
):
    """Listens on a free port of loopback."""

    def __init__(self) -> None:
        self.spans: list[ReceivedSpan] = []
        self.metric_names: set[str] = set()
        self._arrived = threading.Condition()
        self._server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self._server)
        metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    @property
    def address(self) -> str:
        """Where to send spans."""
        return f"127.0.0.1:{self.port}"

    def close(self) -> None:
        """Stops listening."""
        self._server.stop(None)

    def wait_for(
        self, found: Callable[[list[ReceivedSpan]], bool], seconds: float = 30
    ) -> list[ReceivedSpan]:
        """The spans once `found` holds of them; raises TimeoutError with what there is."""
        deadline = time.monotonic() + seconds
        with self._arrived:
            while not found(self.spans):
                left = deadline - time.monotonic()
                if left <= 0:
                    names = sorted({f"{s.service}/{s.region}: {s.name}" for s in self.spans})
                    raise TimeoutError("spans so far:\n" + "\n".join(names))
                self._arrived.wait(left)
            return list(self.spans)

    def Export(self, request: Any, context: grpc.ServicerContext) -> Any:
        """OTLP's one method, of either service."""
        if isinstance(request, metrics_service_pb2.ExportMetricsServiceRequest):
            with self._arrived:
                for resource in request.resource_metrics:
                    for scope in resource.scope_metrics:
                        self.metric_names |= {metric.name for metric in scope.metrics}
                self._arrived.notify_all()
            return metrics_service_pb2.ExportMetricsServiceResponse()
        with self._arrived:
            for resource_spans in request.resource_spans:
                resource = _values(resource_spans.resource.attributes)
                for scope_spans in resource_spans.scope_spans:
                    self.spans += [_received(resource, span) for span in scope_spans.spans]
            self._arrived.notify_all()
        return trace_service_pb2.ExportTraceServiceResponse()


def _received(resource: dict[str, Any], span: Any) -> ReceivedSpan:
    return ReceivedSpan(
        service=str(resource.get("service.name", "")),
        region=str(resource.get("isthmus.region", "")),
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        links=tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
        attributes=_values(span.attributes),
    )


def _values(attributes: Any) -> dict[str, Any]:
    return {
        item.key: getattr(item.value, item.value.WhichOneof("value") or "string_value")
        for item in attributes
    }
