"""Spans of applied frames link to the writes in them; bad trace parents are left out."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import isthmus.channels.v1.channel_pb2  # noqa: F401 # its classes are to be known
import pytest
from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from mesh.contracts import load
from mesh.place import Place
from mesh.replication import Applied, Group, Origin
from mesh.runtime.telemetry import Telemetry, observe_group, span_context

PARENTS = tuple(f"00-{number:032x}-{number:016x}-01" for number in range(1, 101))


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Telemetry, InMemorySpanExporter]]:
    """A telemetry whose spans are kept, and that leaves the process's own alone."""
    monkeypatch.setattr(trace, "set_tracer_provider", lambda _: None)
    monkeypatch.setattr(metrics, "set_meter_provider", lambda _: None)
    with tempfile.TemporaryDirectory(prefix="isthmus-rt-") as base:
        folder = Path(base)
        telemetry = Telemetry(Place("eu", "channels", folder, folder, folder), load())
        kept = InMemorySpanExporter()
        telemetry._tracers.add_span_processor(SimpleSpanProcessor(kept))
        yield telemetry, kept
        telemetry.close()


def frame(*trace_parents: str) -> Applied:
    """A frame of region us."""
    return Applied("channels", Origin("us", 1), 5, 9, trace_parents, 0)


def test_an_applied_frame_links_to_its_writes(
    spans: tuple[Telemetry, InMemorySpanExporter],
) -> None:
    telemetry, kept = spans
    telemetry.applied(frame(PARENTS[0], PARENTS[1], PARENTS[0], "garbage"))
    (span,) = kept.get_finished_spans()
    assert [(link.context.trace_id, link.context.span_id) for link in span.links] == [
        (1, 1),
        (2, 2),
    ]
    assert span.attributes is not None
    assert span.attributes["isthmus.origin.region"] == "us"
    assert span.attributes["isthmus.group"] == "channels"


async def test_a_groups_metrics_can_be_exported(tmp_path: Path) -> None:
    reader = InMemoryMetricReader()
    meters = MeterProvider([reader])
    group = await Group.open(load(), "channels", region="eu", peers=("us",), folder=tmp_path)
    try:
        observe_group(meters.get_meter("test"), group)
        found = reader.get_metrics_data()
        assert found is not None
        message = encode_metrics(found)
    finally:
        await group.close()
        meters.shutdown()
    names = {each.name for each in message.resource_metrics[0].scope_metrics[0].metrics}
    assert {"isthmus_replication_link_lag", "isthmus_replication_member_counts"} <= names


def test_links_are_bounded(spans: tuple[Telemetry, InMemorySpanExporter]) -> None:
    telemetry, kept = spans
    telemetry.applied(frame(*PARENTS))
    assert len(kept.get_finished_spans()[0].links) == 64


@pytest.mark.parametrize(
    "text",
    [
        "",
        "00",
        f"00-{0:032x}-{1:016x}-01",
        f"00-{1:031x}-{1:016x}-01",
        f"00-{'x' * 32}-{1:016x}-01",
    ],
)
def test_what_is_no_trace_parent_is_no_link(text: str) -> None:
    assert span_context(text) is None


def test_a_trace_parent_is_a_remote_span() -> None:
    context = span_context(PARENTS[6])
    assert context is not None
    assert (context.trace_id, context.span_id, context.is_remote) == (7, 7, True)
