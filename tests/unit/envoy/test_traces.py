"""What an Envoy tells those who tap its calls."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from mesh.envoy.tapped import OWN
from mesh.envoy.traces import Payload, Traces, order


def trace(id: str = "a-b", **changes: Any) -> str:
    def body(content: bytes, *, truncated: bool = False) -> dict[str, Any]:
        return {"as_bytes": base64.b64encode(content).decode(), "truncated": truncated}

    request = {
        "headers": [{"key": ":path", "value": "/a.A/One"}, {"key": "x-request-id", "value": id}],
        "body": body(b"asked"),
    }
    response = {"headers": [], "body": body(b"answered", **changes)}
    found = {"http_buffered_trace": {"request": request, "response": response}}
    return json.dumps(found, indent=1)


@pytest.mark.parametrize("size", [1, 7, 100, 10_000])
def test_objects_come_in_pieces(size: int) -> None:
    text = trace("one") + "\n\n" + trace("two") + trace("three", truncated=True)
    traces = Traces()
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    found = dict(each for piece in pieces for each in traces.feed(piece))
    payload = Payload("/a.A/One", b"asked", b"answered", cut=False)
    assert found == {
        "one": payload,
        "two": payload,
        "three": Payload("/a.A/One", b"asked", b"answered", cut=True),
    }


def test_what_is_no_call_with_a_name_is_passed_over() -> None:
    assert list(Traces().feed("{}" + trace("") + '{"http_streamed_trace_segment": {}}')) == []
    assert len(list(Traces().feed('{"http_buffered_trace": {}}' + trace()))) == 1


def test_an_order_names_paths_or_all_but_what_taps_do_themselves() -> None:
    one = json.loads(order(["/a.A/One"]))["tap_config"]["match"]
    assert one == {
        "http_request_headers_match": {
            "headers": [{"name": ":path", "string_match": {"exact": "/a.A/One"}}]
        }
    }
    both = json.loads(order(["/a.A/One", "/a.A/Two"]))["tap_config"]["match"]
    assert len(both["or_match"]["rules"]) == 2
    everything = json.loads(order(()))["tap_config"]["match"]["not_match"]["or_match"]["rules"]
    named = {
        each["http_request_headers_match"]["headers"][0]["string_match"]["exact"]
        for each in everything
    }
    assert named == OWN
