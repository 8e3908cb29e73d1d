"""Who calls: read from `x-forwarded-client-cert`, as the instance's own sidecar wrote it.

The sidecar appends the peer that it authenticated as the last element, so whatever a caller put in
front proves nothing on its own. Only an edge is believed about the element before its own: an edge
replaces what came from outside by the client that it authenticated itself. Even then it is believed
about operators and devices alone, who have no other way in: workloads come by their own sidecars.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

Kind = Literal["workload", "operator", "device", "unenrolled"]

_SPIFFE = re.compile(
    r"spiffe://(?P<domain>[a-z0-9.-]+)/"
    r"(?:region/(?P<region>[a-z0-9-]+)/workload/(?P<workload>[a-z0-9-]+)"
    r"|(?P<kind>operator|device)/(?P<name>[a-z0-9-]+))"
)
# One `Key=value` pair of an element; Envoy quotes values that hold a comma, semicolon or equals.
_PAIR = re.compile(r'([A-Za-z]+)=("(?:[^"\\]|\\.)*"|[^;,]*)')

# In a subject as Envoy prints it (RFC 2253): a comma inside a value has a backslash before it.
_ENROLLED = re.compile(r"(?<![^,])(?<!\\,)dnQualifier=([0-9]{1,15})(?![^,])")


class UntrustedCaller(Exception):
    """The header is missing, malformed, or of another trust domain."""


@dataclass(frozen=True)
class Principal:
    """An authenticated caller.

    `name` is the workload's, operator's or device's; `region` is set for workloads only. `hop` is
    the SPIFFE identity of the sidecar or edge that the call came by. `enrolled_ms` is when the
    holder of the certificate enrolled (milliseconds since 1970), as an edge read it there; a
    renewal keeps it. None if the certificate does not say, or no edge was asked. `by_token`: the
    edge let an operator in by a token, not by a certificate.
    """

    kind: Kind
    name: str
    spiffe_id: str
    hop: str
    region: str | None = None
    enrolled_ms: int | None = None
    by_token: bool = False

    def __str__(self) -> str:
        return self.spiffe_id or self.kind


UNENROLLED = Principal("unenrolled", "", "", "")
"""A caller of the enrolment listener, which asks for no client certificate."""


def from_header(header: str, trust_domain: str) -> Principal:
    """The principal that a header names. Raises `UntrustedCaller`."""
    elements = _elements(header)
    uris = [_uri(element) for element in elements]
    if not uris or uris[-1] is None:
        raise UntrustedCaller("the sidecar named no peer in x-forwarded-client-cert")
    hop = _identity(uris[-1], trust_domain, hop=uris[-1])
    if not (hop.kind == "workload" and hop.name == "edge"):
        return hop
    if len(uris) < 2 or uris[-2] is None:
        # The edge asks for itself: its health checks.
        return hop
    principal = _identity(uris[-2], trust_domain, hop=uris[-1])
    if principal.kind == "workload":
        raise UntrustedCaller(
            f"{hop} speaks for {principal}: edges speak for operators and devices alone"
        )
    # Of each certificate Envoy says the hash as well.
    by_token = _only(elements[-2], "hash") is None
    return replace(principal, enrolled_ms=_enrolled_ms(elements[-2]), by_token=by_token)


def _identity(uri: str, trust_domain: str, hop: str) -> Principal:
    match = _SPIFFE.fullmatch(uri)
    if match is None or match["domain"] != trust_domain:
        raise UntrustedCaller(f"{uri!r} is no identity of trust domain {trust_domain!r}")
    if match["workload"]:
        return Principal("workload", match["workload"], uri, hop, match["region"])
    kind: Kind = "operator" if match["kind"] == "operator" else "device"
    return Principal(kind, match["name"], uri, hop)


def _elements(header: str) -> list[str]:
    elements, quoted, start = [], False, 0
    for at, character in enumerate(header):
        if character == '"' and (at == 0 or header[at - 1] != "\\"):
            quoted = not quoted
        elif character == "," and not quoted:
            elements.append(header[start:at])
            start = at + 1
    if quoted:
        raise UntrustedCaller("a quote in x-forwarded-client-cert is never closed")
    elements.append(header[start:])
    return [element.strip() for element in elements if element.strip()]


def _uri(element: str) -> str | None:
    return _only(element, "uri")


def _enrolled_ms(element: str) -> int | None:
    found = _ENROLLED.findall(_only(element, "subject") or "")
    return int(found[0]) if len(found) == 1 else None


def _only(element: str, wanted: str) -> str | None:
    values = [value.strip('"') for key, value in _PAIR.findall(element) if key.lower() == wanted]
    return values[0] if len(values) == 1 else None
