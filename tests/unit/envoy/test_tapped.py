"""Lines of an access log as calls, and who wants which."""

from __future__ import annotations

import json
from typing import Any

import pytest
from isthmus.mesh.v1.sidecars_pb2 import TapFilter
from isthmus.mesh.v1.tap_pb2 import TappedCall

from mesh.envoy.tapped import OTHER, OWN, call, failed, status, wanted

LIST = "/isthmus.channels.v1.ChannelService/ListChannels"
OPERATOR = "spiffe://isthmus.test/operator/ann"
EDGE = "spiffe://isthmus.test/region/eu/workload/edge"
OVERVIEW = "spiffe://isthmus.test/region/eu/workload/overview"


def line(**changes: Any) -> bytes:
    entry = {
        "time": "2026-11-23T17:00:29.360Z",
        "listener": "edge",
        "authority": "127.0.0.1:1",
        "path": LIST,
        "status": 200,
        "grpc_status": "OK",
        "details": "via_upstream",
        "flags": "-",
        "duration_ms": 12,
        "attempts": 2,
        "bytes_received": 5,
        "bytes_sent": 7,
        "peer": OPERATOR,
        "upstream": "channels/nearest",
        "traceparent": None,
    }
    return json.dumps(entry | changes).encode()


def seen(workload: str = "edge", **changes: Any) -> TappedCall:
    found = call(line(**changes), "eu", workload)
    assert found is not None
    return found


def test_a_line_is_a_call() -> None:
    found = seen()
    assert found.time.ToJsonString() == "2026-11-23T17:00:29.360Z"
    assert (found.sidecar.region, found.sidecar.workload) == ("eu", "edge")
    assert (found.path, found.caller, found.callee) == (LIST, OPERATOR, "channels")
    assert (found.status, found.latency.ToMilliseconds(), found.attempts) == ("OK", 12, 2)
    assert (found.bytes_received, found.bytes_sent, found.details) == (5, 7, "")


@pytest.mark.parametrize(
    "broken",
    [b"", b"{", b"[]", b"3", b'{"time": "yesterday"}', line(duration_ms="long"), line(time=None)],
)
def test_what_is_no_line_of_envoy_s_is_none(broken: bytes) -> None:
    assert call(broken, "eu", "edge") is None


@pytest.mark.parametrize(
    "path",
    [
        "/v1/channels/secret-title?key=secret",
        "/isthmus.channels.v1.ChannelService/ListChannels?key=secret",
        "/secret",
        "/a.B/c/secret",
        "/a.B/" + "c" * 400,
        "/a.B/c\nsecret",
    ],
)
def test_values_in_a_path_are_not_shown(path: str) -> None:
    found = seen(path=path)
    assert found.path == OTHER
    assert "secret" not in str(found)


@pytest.mark.parametrize(
    "grpc, http, expected",
    [
        ("OK", 200, "OK"),
        ("DeadlineExceeded", 200, "DEADLINE_EXCEEDED"),
        ("Canceled", 200, "CANCELLED"),
        ("NotFound", 200, "NOT_FOUND"),
        ("-", 404, "HTTP_404"),
        (None, 0, "HTTP_0"),
    ],
)
def test_statuses_are_spelt_as_they_are_documented(
    grpc: str | None, http: int, expected: str
) -> None:
    assert status(grpc, http) == expected


def test_which_statuses_are_failures() -> None:
    assert [each for each in ("OK", "HTTP_200", "HTTP_304") if failed(each)] == []
    assert all(map(failed, ("NOT_FOUND", "HTTP_404", "HTTP_503", "HTTP_None")))


@pytest.mark.parametrize(
    "asked, matches",
    [
        (TapFilter(), True),
        (TapFilter(paths=[LIST]), True),
        (TapFilter(paths=["/a.B/C"]), False),
        (TapFilter(workloads=["channels"]), True),
        (TapFilter(workloads=["edge", "x"]), True),
        (TapFilter(workloads=["devices"]), False),
        (TapFilter(callers=["operator"]), True),
        (TapFilter(callers=["ann"]), True),
        (TapFilter(callers=[OPERATOR]), True),
        (TapFilter(callers=["device", "overview", "operato"]), False),
        (TapFilter(statuses=["OK"]), True),
        (TapFilter(statuses=["NOT_FOUND"]), False),
        (TapFilter(failed=True), False),
        (TapFilter(paths=[LIST], callers=["bob"]), False),
    ],
)
def test_a_filter_asks_for_all_that_it_names(asked: TapFilter, matches: bool) -> None:
    assert wanted(seen(), [asked]) is matches


def test_one_of_several_filters_is_enough() -> None:
    assert not wanted(seen(), [])
    assert wanted(seen(), [TapFilter(failed=True), TapFilter(callers=["ann"])])


def test_a_call_is_shown_once_unless_every_hop_is_wanted() -> None:
    hops = [
        (seen(), True),
        (seen("channels", listener="inbound", peer=EDGE, upstream="app"), False),
        (seen("channels", listener="inbound", peer=OVERVIEW, upstream="app"), True),
        (seen("overview", listener="egress", peer=None), False),
        (seen("overview", listener="egress", peer=None, details="direct_response"), True),
    ]
    for found, once in hops:
        assert wanted(found, [TapFilter()]) is once
        assert wanted(found, [TapFilter(every_hop=True)])


def test_the_callee_is_known_by_cluster_sidecar_or_authority() -> None:
    refused = {"details": "direct_response", "upstream": None, "listener": "egress"}
    assert seen("overview", **refused, authority="channels.us").callee == "channels"
    assert seen("overview", **refused, authority="a b").callee == "a"
    assert seen("channels", listener="inbound", upstream="app").callee == "channels"
    assert seen(upstream=None).callee == ""


def test_taps_do_not_show_themselves() -> None:
    for path in OWN:
        assert not wanted(seen(path=path), [TapFilter(every_hop=True)])
        assert wanted(seen(path=path), [TapFilter(paths=[path])])
