"""Lines of a sidecar's access log as calls, and which of them a tap wants. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from isthmus.mesh.v1 import sidecars_pb2, tap_pb2

from mesh.place import EDGE

INBOUND, EGRESS = "inbound", "egress"

OWN = frozenset({"/isthmus.mesh.v1.SidecarService/Report", "/isthmus.mesh.v1.TapService/Feed"})
"""How taps themselves are fed: shown to those alone who ask for these by name."""

_ANSWERED = "via_upstream"
_CAPITAL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_OWN_HOST = frozenset({"app", "metrics"})
_METHOD = re.compile(r"/(\w+\.)+\w+/\w+|/metrics(/[\w-]+)?")
_NAME = re.compile(r"[\w-]{1,64}")
_REQUEST_ID = re.compile(r"[0-9a-f-]{36}")
_LONGEST = 200
OTHER = "/other"
"""A path that is no method's: values of a request may stand in it."""


def call(line: bytes, region: str, workload: str) -> tap_pb2.TappedCall | None:
    """A line as a call; None if it is none of Envoy's."""
    try:
        entry = json.loads(line)
        began = datetime.fromisoformat(entry["time"]).astimezone(UTC)
        found = tap_pb2.TappedCall(
            listener=entry["listener"],
            path=_path(entry["path"] or ""),
            caller=entry.get("peer") or "",
            callee=_callee(entry.get("upstream") or "", workload, entry),
            status=status(entry.get("grpc_status"), entry.get("status")),
            attempts=entry.get("attempts") or 0,
            bytes_received=entry.get("bytes_received") or 0,
            bytes_sent=entry.get("bytes_sent") or 0,
            traceparent=entry.get("traceparent") or "",
            request_id=_request_id(entry.get("request_id") or ""),
        )
        found.latency.FromTimedelta(timedelta(milliseconds=entry.get("duration_ms") or 0))
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    found.time.FromDatetime(began)
    found.sidecar.region, found.sidecar.workload = region, workload
    if entry.get("details") != _ANSWERED:
        found.details = entry.get("details") or "no details"
    return found


def _request_id(text: str) -> str:
    return text if _REQUEST_ID.fullmatch(text) else ""


def _path(path: str) -> str:
    return path if _METHOD.fullmatch(path) and len(path) <= _LONGEST else OTHER


def status(grpc: object, http: object) -> str:
    """A gRPC code in the spelling of its documentation, of Envoy's: `NotFound` is NOT_FOUND."""
    if isinstance(grpc, str) and grpc not in ("", "-"):
        name = _CAPITAL.sub("_", grpc).upper()
        return "CANCELLED" if name == "CANCELED" else name
    return f"HTTP_{http}"


def failed(status: str) -> bool:
    """Whether a status is neither OK nor below 400."""
    if status.startswith("HTTP_"):
        return not status.removeprefix("HTTP_").isdigit() or int(status[5:]) >= 400
    return status != "OK"


def wanted(found: tap_pb2.TappedCall, filters: Iterable[sidecars_pb2.TapFilter]) -> bool:
    """Whether any of the filters lets it through."""
    return any(_matches(found, each) for each in filters)


def _matches(found: tap_pb2.TappedCall, asked: sidecars_pb2.TapFilter) -> bool:
    if asked.paths:
        if found.path not in asked.paths:
            return False
    elif found.path in OWN:
        return False
    if asked.workloads and not {found.callee, found.sidecar.workload} & set(asked.workloads):
        return False
    if asked.callers and not any(_is_called(found.caller, each) for each in asked.callers):
        return False
    if asked.statuses and found.status not in asked.statuses:
        return False
    if asked.failed and not failed(found.status):
        return False
    if asked.payloads:
        return found.listener == INBOUND
    return asked.every_hop or _first_known(found)


def _first_known(found: tap_pb2.TappedCall) -> bool:
    """Whether this sidecar is the one that knows most of a call: so each is shown once.

    An edge knows who called it, and a callee which workload; a caller's own sidecar knows of calls
    that no callee has seen.
    """
    if found.listener == INBOUND:
        return not found.caller.endswith(f"/workload/{EDGE}")
    return found.listener != EGRESS or bool(found.details)


def _is_called(spiffe_id: str, name: str) -> bool:
    """`spiffe://d/region/eu/workload/channels` is `channels`; `spiffe://d/operator/x` also
    `operator`."""
    if spiffe_id == name:
        return True
    parts = spiffe_id.removeprefix("spiffe://").split("/")[1:]
    if not parts:
        return False
    return name == parts[-1] or (name == parts[0] and name != "region")


def _callee(cluster: str, workload: str, entry: dict[str, object]) -> str:
    """The workload that was called: a cluster is named `channels/nearest`."""
    if "/" in cluster:
        return cluster.partition("/")[0]
    if cluster in _OWN_HOST or entry["listener"] == INBOUND:
        return workload
    named = _NAME.match(str(entry.get("authority"))) if entry["listener"] == EGRESS else None
    return named[0] if named else ""
