"""Our bytes against betterproto2's own, over all that the compiler makes."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import betterproto2
import pytest
from envoy_data_plane.envoy.config.cluster import v3 as cluster
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.type import v3 as types
from envoy_data_plane.google.protobuf import Struct

from mesh import topology as topologies
from mesh.access import Access, JwtIssuer
from mesh.contracts.read import load
from mesh.envoy import listeners, routes
from mesh.envoy.clusters import upstream_cluster
from mesh.envoy.encode import encode
from mesh.envoy.target import Target
from mesh.place import Place

TOPOLOGY = topologies.load(Path(__file__).parents[3] / "mesh.yaml")
OPEN = replace(
    TOPOLOGY,
    access=Access(("https://a.example",), JwtIssuer("https://b.example", "c", "{}")),
)
CONTRACT = load()
PLACE = Place("eu", "channels", TOPOLOGY.path, Path("run"), Path("state"))


def compiled() -> list[betterproto2.Message]:
    tables = [
        routes.inbound(CONTRACT, TOPOLOGY, "eu", "channels").configuration("inbound"),
        routes.egress(CONTRACT, TOPOLOGY, "eu", "channels").configuration("egress"),
        routes.edge(CONTRACT, TOPOLOGY, "eu").configuration("edge"),
    ]
    address, sds = TOPOLOGY.inbound("eu", "channels"), Path("sds")
    return [
        *tables,
        listeners.inbound(address, PLACE, sds, tables[0], CONTRACT.methods()),
        listeners.edge(address, PLACE, sds, tables[2], CONTRACT, OPEN),
        routes.edge(CONTRACT, OPEN, "eu").configuration("edge"),
        listeners.enrolment(address, PLACE, sds, tables[1]),
        upstream_cluster(Target("devices", "nearest"), TOPOLOGY, PLACE, sds),
        upstream_cluster(Target("devices", "pinned", "us"), TOPOLOGY, PLACE, sds),
    ]


@pytest.mark.parametrize("message", compiled(), ids=lambda m: type(m).__name__)
def test_what_is_compiled_is_read_back_and_written_the_same(message: Any) -> None:
    data = encode(message)
    read = type(message).parse(data)
    assert encode(read) == data
    # betterproto2 writes fields in the order of the schema's text, so its bytes are others.
    assert encode(type(message).parse(bytes(read))) == data
    assert len(bytes(read)) == len(data)


@pytest.mark.parametrize(
    "message",
    [
        core.Metadata(filter_metadata={"b": Struct.from_dict({"z": [1.5, None], "a": "ä"})}),
        types.Int64Range(start=-1, end=1 << 62),
        cluster.Cluster(connect_timeout=timedelta(milliseconds=1500), dns_refresh_rate=None),
        cluster.OutlierDetection(consecutive_5xx=0, enforcing_success_rate=300),
        core.DataSource(inline_bytes=b""),
        core.SocketAddress(port_value=0, address="::"),
        types.Percent(value=-0.5),
    ],
)
def test_every_kind_of_field(message: Any) -> None:
    data = encode(message)
    assert type(message).parse(data) == message
    assert len(data) == len(bytes(message))


def test_equal_maps_are_equal_bytes() -> None:
    one, two = Struct.from_dict({"a": 1}), Struct.from_dict({"b": 2})
    first = core.Metadata(filter_metadata={"x": one, "y": two})
    second = core.Metadata(filter_metadata={"y": two, "x": one})
    assert encode(first) == encode(second)
