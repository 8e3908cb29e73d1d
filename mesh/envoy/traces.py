"""What is said in calls, as an Envoy's admin socket tells those who ask. Pure.

Who posts an order gets a JSON object for each call that ended since, until he goes.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from mesh.envoy.tapped import OWN

PAGE = "/tap"
MOST_BYTES = 64 * 1024
"""Of a call's body, each way: what is more is cut off."""

ID = "payloads"


@dataclass(frozen=True)
class Payload:
    """The bodies of a call; `cut` if they are not whole."""

    path: str
    request: bytes
    response: bytes
    cut: bool


def order(paths: Collection[str]) -> str:
    """What is posted to `PAGE` to get calls of these paths; of all but taps' own if it is empty."""
    named = [_path_is(path) for path in sorted(paths or OWN)]
    match: dict[str, Any] = {"or_match": {"rules": named}} if len(named) > 1 else named[0]
    return json.dumps(
        {
            "config_id": ID,
            "tap_config": {
                "match": match if paths else {"not_match": match},
                "output_config": {
                    "max_buffered_rx_bytes": MOST_BYTES,
                    "max_buffered_tx_bytes": MOST_BYTES,
                    "sinks": [{"format": "JSON_BODY_AS_BYTES", "streaming_admin": {}}],
                },
            },
        }
    )


def _path_is(path: str) -> dict[str, Any]:
    header = {"name": ":path", "string_match": {"exact": path}}
    return {"http_request_headers_match": {"headers": [header]}}


class Traces:
    """Takes apart what comes: objects that follow each other, in pieces of any length."""

    def __init__(self) -> None:
        self._decoder = json.JSONDecoder()
        self._rest = ""

    def feed(self, text: str) -> Iterator[tuple[str, Payload]]:
        """The calls that are whole by now, by their request ids."""
        self._rest = (self._rest + text).lstrip()
        while self._rest:
            try:
                found, end = self._decoder.raw_decode(self._rest)
            except ValueError:
                return
            self._rest = self._rest[end:].lstrip()
            payload = _payload(found)
            if payload is not None:
                yield payload


def _payload(trace: dict[str, Any]) -> tuple[str, Payload] | None:
    found = trace.get("http_buffered_trace", {})
    request, response = found.get("request", {}), found.get("response", {})
    headers = {each["key"]: each.get("value", "") for each in request.get("headers", ())}
    id, path = headers.get("x-request-id"), headers.get(":path")
    if not id or not path:
        return None
    bodies = [each.get("body", {}) for each in (request, response)]
    cut = any(each.get("truncated", False) for each in bodies)
    asked, answered = (base64.b64decode(each.get("as_bytes", "")) for each in bodies)
    return id, Payload(path, asked, answered, cut)
