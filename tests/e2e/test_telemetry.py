"""One write's trace: client, edge, sidecar, service, and the region that applies it."""

from __future__ import annotations

import http.client
import ssl
import uuid
from typing import Any

import grpc
import pytest
from isthmus.channels.v1 import channel_pb2, channels_pb2, channels_pb2_grpc
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.grpc import aio_client_interceptors
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from mesh.cli.exits import Exit
from tests.support.collector import ReceivedSpan
from tests.support.mesh import Run, RunningMesh

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

METHOD = "isthmus.channels.v1.ChannelService/CreateChannel"


async def create_channel(running_mesh: RunningMesh) -> None:
    """Creates a channel through eu's edge, with a traced client."""
    layout = running_mesh.layout
    provider = TracerProvider(resource=Resource.create({"service.name": "client"}))
    exporter = OTLPSpanExporter(endpoint=running_mesh.collector.address, insecure=True)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    interceptors: list[Any] = aio_client_interceptors(tracer_provider=provider)
    held = grpc.ssl_channel_credentials(
        *((layout.operator / name).read_bytes() for name in ("trust.crt", "tls.key", "tls.crt"))
    )
    async with grpc.aio.secure_channel(
        str(layout.topology.edge("eu")), held, interceptors=interceptors
    ) as channel:
        await channels_pb2_grpc.ChannelServiceStub(channel).CreateChannel(
            channels_pb2.CreateChannelRequest(
                channel_id=f"traced-{uuid.uuid4().hex[:8]}",
                source=channel_pb2.Source(test_pattern=channel_pb2.TEST_PATTERN_BARS),
                request_id=str(uuid.uuid4()),
            )
        )
    provider.shutdown()


async def test_a_write_is_one_trace_and_its_apply_elsewhere_links_to_it(
    running_mesh: RunningMesh,
) -> None:
    await create_channel(running_mesh)

    def of_the_write(spans: list[ReceivedSpan]) -> set[str]:
        (root,) = (s for s in spans if s.service == "client")
        return {s.service for s in spans if s.trace_id == root.trace_id}

    def appliers(spans: list[ReceivedSpan]) -> set[str]:
        (root,) = (s for s in spans if s.service == "client")
        return {
            s.region
            for s in spans
            if s.name == "replication.apply"
            and any(trace_id == root.trace_id for trace_id, _ in s.links)
        }

    def served(spans: list[ReceivedSpan]) -> ReceivedSpan:
        # Just after a start eu's edge may not know yet that eu's own instance is healthy.
        traces = _client_traces(spans)
        (found,) = (
            s
            for s in spans
            if s.service == "channels" and METHOD in s.name and s.trace_id in traces
        )
        return found

    expected = {"client", "edge-sidecar", "channels-sidecar", "channels"}
    spans = running_mesh.collector.wait_for(
        lambda spans: (
            any(s.service == "client" for s in spans)
            and of_the_write(spans) >= expected
            and appliers(spans) == {"ap", "eu", "us"} - {served(spans).region}
        ),
        seconds=60,
    )
    by_id = {s.span_id: s for s in spans}
    chain = [served(spans)]
    while chain[-1].parent_id in by_id:
        chain.append(by_id[chain[-1].parent_id])
    # From the service back to the client through both proxies, without a hole.
    assert chain[-1].service == "client" and not chain[-1].parent_id.strip("0")
    assert {s.service for s in chain} == expected


def _client_traces(spans: list[ReceivedSpan]) -> set[str]:
    return {s.trace_id for s in spans if s.service == "client"}


def test_metrics_arrive_over_otlp_too(running_mesh: RunningMesh) -> None:
    expected = {"isthmus_certificate_expiry_timestamp", "isthmus_replication_link_lag"}
    running_mesh.collector.wait_for(lambda _: expected <= running_mesh.collector.metric_names)


def test_an_operator_reads_a_workloads_metrics_through_the_edge(
    running_mesh: RunningMesh, isthmus: Run
) -> None:
    layout = running_mesh.layout
    asked = isthmus("status")
    assert asked.returncode == Exit.OK, asked.stdout + asked.stderr  # each workload served a call
    context = ssl.create_default_context(cafile=str(layout.operator / "trust.crt"))
    context.load_cert_chain(layout.operator / "tls.crt", layout.operator / "tls.key")
    address = layout.topology.edge("eu")
    connection = http.client.HTTPSConnection(
        address.host, address.port, context=context, timeout=10
    )
    connection.request("GET", "/metrics/channels")
    response = connection.getresponse()
    page = response.read().decode()
    connection.close()
    assert response.status == 200
    for name in (
        "isthmus_certificate_expiry_timestamp_seconds",
        "isthmus_replication_link_lag_seconds",
        "isthmus_replication_link_lag_changes",
        "isthmus_rpc_server_duration_seconds_count",
    ):
        assert f"\n{name}{{" in page, name
    device = layout.state / "devices" / "encoder-eu-1" / "identity"
    context = ssl.create_default_context(cafile=str(device / "trust.crt"))
    context.load_cert_chain(device / "tls.crt", device / "tls.key")
    connection = http.client.HTTPSConnection(
        address.host, address.port, context=context, timeout=10
    )
    connection.request("GET", "/metrics/channels")
    assert connection.getresponse().status == 403
    connection.close()
