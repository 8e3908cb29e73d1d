"""Bytes on the wire against an independent reading of the same schema, and content as versions."""

from __future__ import annotations

import pytest
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.service.discovery import v3 as discovery
from envoy_data_plane.google.rpc import Status

from mesh.xds import wire
from mesh.xds.delta import DeltaRequest, DeltaStream
from mesh.xds.kinds import CLUSTER, ENDPOINTS
from mesh.xds.stream import TooMuch
from mesh.xds.whole import WholeRequest, WholeStream
from tests.support.xds_clients import LIBRARY, resource

ONE, TWO = resource(CLUSTER, "one", 1), resource(CLUSTER, "two", 1)
NODE = core.Node(id="somebody else", extensions=[core.Extension(name="x" * 50)] * 300)


def test_a_delta_request_is_read() -> None:
    sent = discovery.DeltaDiscoveryRequest(
        node=NODE,
        type_url=CLUSTER,
        resource_names_subscribe=["a", "b"],
        resource_names_unsubscribe=["c"],
        initial_resource_versions={"a": "1", "d": "2"},
        response_nonce="7",
        error_detail=Status(code=13, message="no"),
    )
    assert wire.delta_request(bytes(sent)) == DeltaRequest(
        CLUSTER, ("a", "b"), ("c",), {"a": "1", "d": "2"}, "7", "no"
    )
    assert wire.delta_request(bytes(discovery.DeltaDiscoveryRequest(type_url="t"))).error is None


def test_a_whole_request_is_read() -> None:
    sent = discovery.DiscoveryRequest(
        version_info="v",
        node=NODE,
        resource_names=["a"],
        type_url=CLUSTER,
        response_nonce="7",
        error_detail=Status(message="no"),
    )
    assert wire.whole_request(bytes(sent)) == WholeRequest(CLUSTER, ("a",), "v", "7", "no")


@pytest.mark.parametrize("data", [b"\xff\xff", b""])
def test_what_is_no_request_is_refused(data: bytes) -> None:
    for read in (wire.delta_request, wire.whole_request):
        with pytest.raises(wire.Malformed):
            read(data)


def test_responses_are_read_by_others() -> None:
    delta = DeltaStream(LIBRARY.snapshot([ONE, TWO]))
    delta.receive(DeltaRequest(CLUSTER, ("one", "two", "three")), 0)
    response = delta.poll()
    assert response is not None
    read = discovery.DeltaDiscoveryResponse.parse(wire.delta_response(response))
    assert (read.type_url, read.nonce, read.removed_resources) == (CLUSTER, "1", ["three"])
    assert [(r.name, r.version) for r in read.resources] == [
        ("one", ONE.version),
        ("two", TWO.version),
    ]
    assert [r.resource.type_url for r in read.resources if r.resource] == [CLUSTER] * 2
    assert [r.resource.value for r in read.resources if r.resource] == [
        f"{CLUSTER} {name} 1".encode() for name in ("one", "two")
    ]
    whole = WholeStream(LIBRARY.snapshot([ONE, TWO]))
    whole.receive(WholeRequest(CLUSTER), 0)
    response = whole.poll()
    assert response is not None
    full = discovery.DiscoveryResponse.parse(wire.whole_response(response))
    assert (full.type_url, full.nonce, full.version_info) == (CLUSTER, "1", response.version)
    assert [r.value for r in full.resources] == [
        f"{CLUSTER} {name} 1".encode() for name in ("one", "two")
    ]


def test_what_is_the_same_is_one_object_with_one_version() -> None:
    assert resource(CLUSTER, "one", 1) is ONE
    first, second = LIBRARY.snapshot([ONE, TWO]), LIBRARY.snapshot([TWO, ONE])
    assert first[CLUSTER] is second[CLUSTER]
    assert first.version == second.version
    other = LIBRARY.snapshot([resource(CLUSTER, "one", 2), TWO])
    assert other[CLUSTER] != first[CLUSTER]
    changes = other[CLUSTER].changes_since(first[CLUSTER])
    assert (changes.changed, changes.removed) == (("one",), ())
    assert other[CLUSTER].changes_since(first[CLUSTER]) is changes


def test_a_stream_has_bounds() -> None:
    stream = DeltaStream(LIBRARY.snapshot([ONE]))
    with pytest.raises(TooMuch, match="65536 resources"):
        stream.receive(DeltaRequest(ENDPOINTS, tuple(map(str, range(70_000)))), 0)
    stream = DeltaStream(LIBRARY.snapshot([ONE]))
    with pytest.raises(TooMuch, match="32 types"):
        for number in range(40):
            stream.receive(DeltaRequest(f"type {number}"), 0)


def test_a_sidecar_that_asks_again_is_answered_again() -> None:
    stream = DeltaStream(LIBRARY.snapshot([ONE, TWO]))
    stream.receive(DeltaRequest(CLUSTER), 0)
    response = stream.poll()
    assert response is not None
    stream.receive(DeltaRequest(CLUSTER, nonce=response.nonce), 0)
    assert stream.poll() is None
    stream.receive(DeltaRequest(CLUSTER, ("two",)), 0)
    response = stream.poll()
    assert response is not None
    assert response.resources == (TWO,)
    # Of one name it lets go; as one of all it stays, which it is told.
    stream.receive(DeltaRequest(CLUSTER, (), ("two",), nonce=response.nonce), 0)
    response = stream.poll()
    assert response is not None
    assert response.resources == (TWO,)
    stream.receive(DeltaRequest(CLUSTER, (), ("*",), nonce=response.nonce), 0)
    stream.retarget(LIBRARY.snapshot([resource(CLUSTER, "two", 2)]))
    assert stream.poll() is None
    stream.receive(DeltaRequest(CLUSTER, ("*",)), 0)
    response = stream.poll()
    assert response is not None
    assert [each.name for each in response.resources] == ["two"]


def test_a_client_that_begins_with_a_nonce_of_another_stream_is_answered() -> None:
    stream = WholeStream(LIBRARY.snapshot([ONE]))
    stream.receive(WholeRequest(CLUSTER, ("one",), "some version", "17"), 0)
    response = stream.poll()
    assert response is not None
    assert response.resources == (ONE,)
    # What it says about that other stream later is void.
    stream.receive(WholeRequest(CLUSTER, ("one",), "some version", "18", "no"), 0)
    assert stream.rejection is None
    assert not stream.acknowledged
    stream.receive(WholeRequest(CLUSTER, ("one",), response.version, response.nonce), 0)
    assert stream.acknowledged
