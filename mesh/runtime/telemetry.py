"""Traces and metrics: OpenTelemetry in, OTLP and a Prometheus page out.

A unary call is one span on each side, joined through the sidecars by the W3C trace context. Long
streams have no span: one that ends after an hour helps nobody. The span that applies a frame from
another region *links* to the spans of the writes in it, since a frame has no one parent.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import grpc
from isthmus.replication.v1.members_pb2 import MemberStatus
from opentelemetry import metrics, trace
from opentelemetry.instrumentation.grpc import aio_client_interceptors, aio_server_interceptor
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceFlags

from mesh.contracts import Contract
from mesh.place import Place
from mesh.replication import Applied, Group
from mesh.runtime.certificate_metrics import observe_certificates
from mesh.runtime.integrity_metrics import observe_integrity
from mesh.runtime.metrics_page import MetricsPage

_EXPORT_MILLISECONDS = 5000
# Links of one span: enough to find the writes, bounded for the collector.
_MOST_LINKS = 64


class Telemetry:
    """The telemetry of one instance. Sets the process's global providers."""

    def __init__(self, place: Place, contract: Contract) -> None:
        self._traced = {m.path for m in contract.methods() if not m.streaming}
        resource = Resource.create(
            {
                "service.name": place.workload,
                "service.namespace": "isthmus",
                "isthmus.region": place.region,
                **({"service.version": place.version} if place.version else {}),
            }
        )
        self._page = MetricsPage(place.metrics_socket)
        readers: list[MetricReader] = [self._page.reader]
        self._tracers = TracerProvider(resource=resource)
        if place.otlp:
            readers.append(self._export_to(place.otlp))
        self._meters = MeterProvider(metric_readers=readers, resource=resource)
        trace.set_tracer_provider(self._tracers)
        metrics.set_meter_provider(self._meters)
        self._tracer = self._tracers.get_tracer("isthmus")

    def _export_to(self, collector: str) -> MetricReader:
        # Imported here: exporters cost every process 100 ms that has no collector.
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        spans = OTLPSpanExporter(endpoint=collector, insecure=True)
        self._tracers.add_span_processor(BatchSpanProcessor(spans, schedule_delay_millis=1000))
        return PeriodicExportingMetricReader(
            OTLPMetricExporter(endpoint=collector, insecure=True),
            export_interval_millis=_EXPORT_MILLISECONDS,
        )

    def server_interceptors(self) -> list[Any]:
        """For the server: a span for each unary call."""
        return [aio_server_interceptor(filter_=self._is_traced)]

    def client_interceptors(self) -> list[Any]:
        """For channels to the sidecar: a span for each unary call."""
        return list(aio_client_interceptors(filter_=self._is_traced))

    def _is_traced(self, details: grpc.HandlerCallDetails | grpc.ClientCallDetails) -> bool:
        method: str | bytes = details.method
        return (method.decode() if isinstance(method, bytes) else method) in self._traced

    def observe(self, place: Place, group: Group | None) -> None:
        """Begins to show the certificate's expiry and the group's state as metrics."""
        meter = self._meters.get_meter("isthmus")
        observe_certificates(meter, place, time.time_ns)
        if group is not None:
            observe_group(meter, group)
            observe_integrity(meter, group)

    def applied(self, frame: Applied) -> None:
        """Makes the span of a frame that was applied; it links to its writes' spans."""
        links = [
            Link(context)
            for context in map(span_context, dict.fromkeys(frame.trace_parents))
            if context is not None
        ]
        span = self._tracer.start_span(
            "replication.apply",
            kind=SpanKind.CONSUMER,
            links=links[:_MOST_LINKS],
            attributes={
                "isthmus.group": frame.group,
                "isthmus.origin.region": frame.origin.region,
                "isthmus.first": frame.first,
                "isthmus.last": frame.last,
            },
        )
        span.end()

    def close(self) -> None:
        """Sends what is left and ends the page."""
        self._tracers.shutdown()
        self._meters.shutdown()
        self._page.close()


def span_context(trace_parent: str) -> SpanContext | None:
    """A W3C trace parent (https://www.w3.org/TR/trace-context/) as a remote span; None if bad."""
    parts: Sequence[str] = trace_parent.split("-")
    if len(parts) != 4 or (len(parts[1]), len(parts[2])) != (32, 16):
        return None
    try:
        context = SpanContext(
            int(parts[1], 16), int(parts[2], 16), True, TraceFlags(int(parts[3], 16))
        )
    except ValueError:
        return None
    return context if context.is_valid else None


def observe_group(meter: metrics.Meter, group: Group) -> None:
    """Begins to show how a group stands."""

    def links(field: str) -> Any:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            return [
                Observation(_number(getattr(link, field)), {"group": group.name, "peer": link.peer})
                for link in group.status().links
            ]

        return observe

    def entities(_: CallbackOptions) -> Iterable[Observation]:
        return [Observation(group.status().entities, {"group": group.name})]

    def parked(_: CallbackOptions) -> Iterable[Observation]:
        waiting = sum(each.changes for each in group.status().parked)
        return [Observation(waiting, {"group": group.name})]

    for name, field, unit, text in (
        ("lag_changes", "lag_changes", "1", "What the peer holds and is not applied here yet."),
        ("lag", "lag", "s", "Age of the oldest of it, by its writer's clock."),
        ("lag_at_least", "lag_at_least", "1", "Whether there may be more, and older."),
        (
            "unacknowledged_changes",
            "unacknowledged_changes",
            "1",
            "What the peer may lack on disk.",
        ),
        ("unacknowledged", "unacknowledged", "s", "Age of the oldest of it."),
        ("silence", "silence", "s", "Since the peer was last heard."),
        ("connected", "connected", "1", "Whether the link to the peer is up."),
    ):
        meter.create_observable_gauge(
            f"isthmus_replication_link_{name}", [links(field)], unit=unit, description=text
        )

    def origins(field: str) -> Any:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            return [
                Observation(
                    _number(getattr(lag, field)),
                    {
                        "group": group.name,
                        "region": lag.origin.region,
                        "incarnation": str(lag.origin.incarnation),
                    },
                )
                for lag in group.status().lags
            ]

        return observe

    for name, field, unit, text in (
        ("changes", "changes", "1", "Changes of the origin that exist and are not applied here."),
        ("age", "lag", "s", "Age of the oldest of them, by its writer's clock."),
        ("at_least", "at_least", "1", "Whether there may be more: the region is silent."),
    ):
        meter.create_observable_gauge(
            f"isthmus_replication_origin_lag_{name}", [origins(field)], unit=unit, description=text
        )

    def waiting(field: str) -> Any:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            sums = {"dependency": 0, "signature": 0}
            for each in group.status().waiting:
                sums["signature" if each.relay else "dependency"] += getattr(each, field)
            return [Observation(n, {"group": group.name, "for": why}) for why, n in sums.items()]

        return observe

    for field in ("frames", "bytes"):
        meter.create_observable_gauge(
            f"isthmus_replication_waiting_{field}",
            [waiting(field)],
            unit="1" if field == "frames" else "By",
            description="What came and is not applied, by what it waits for.",
        )

    def members(value: Callable[[MemberStatus], float]) -> Any:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            status = group.status().members
            return [
                Observation(value(each), {"group": group.name, "peer": each.member.region})
                for each in status.members
                if each.member.region != status.region
            ]

        return observe

    gauges: tuple[tuple[str, Callable[[MemberStatus], float], str, str], ...] = (
        ("member_counts", lambda m: int(m.counts), "1", "Whether the region counts as a member."),
        ("member_marks", lambda m: len(m.marks), "1", "Limits that the member is beyond."),
        ("member_held", lambda m: m.held_bytes, "By", "Bytes of journal that the member lacks."),
        (
            "clock_ahead",
            lambda m: _number(m.clock_ahead),
            "s",
            "How far the clock here is ahead of the region's.",
        ),
    )
    for name, value, unit, text in gauges:
        meter.create_observable_gauge(
            f"isthmus_replication_{name}", [members(value)], unit=unit, description=text
        )

    def total(field: str) -> Any:
        return lambda _: [Observation(getattr(group, field), {"group": group.name})]

    for name, field, text in (
        ("writes", "writes_accepted", "Writes that were made durable here."),
        (
            "operations_doubled",
            "operations_doubled",
            "Operation ids that two regions took for new, each for a first attempt.",
        ),
        ("changes_applied", "changes_applied", "Changes of any region that became visible here."),
    ):
        meter.create_observable_counter(
            f"isthmus_replication_{name}", [total(field)], description=text
        )
    meter.create_observable_gauge(
        "isthmus_replication_entities", [entities], unit="1", description="Entities in the group."
    )
    meter.create_observable_gauge(
        "isthmus_replication_parked_changes",
        [parked],
        unit="1",
        description="Changes that wait here for a version that can read them.",
    )
    meter.create_observable_gauge(
        "isthmus_replication_journal_bytes",
        [lambda _: [Observation(group.status().journal_bytes, {"group": group.name})]],
        unit="By",
        description="Frames in the journal: what some region may still ask for, and a reserve.",
    )


def _number(value: Any) -> float:
    return value.ToTimedelta().total_seconds() if hasattr(value, "ToTimedelta") else float(value)
