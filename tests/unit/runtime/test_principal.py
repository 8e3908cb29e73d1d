"""Reading x-forwarded-client-cert, forged elements included."""

from __future__ import annotations

import pytest

from mesh.runtime.principal import UntrustedCaller, from_header
from tests.unit.runtime.serving import DOMAIN, device, element, operator, through_edge, workload


def test_a_workload_is_both_principal_and_hop() -> None:
    principal = from_header(element(workload("channels", "us")), DOMAIN)
    assert (principal.kind, principal.name, principal.region) == ("workload", "channels", "us")
    assert principal.spiffe_id == principal.hop == str(principal) == workload("channels", "us")


@pytest.mark.parametrize(("uri", "kind"), [(operator(), "operator"), (device(), "device")])
def test_behind_an_edge_stands_whom_it_authenticated(uri: str, kind: str) -> None:
    principal = from_header(through_edge(uri), DOMAIN)
    assert (principal.kind, principal.spiffe_id, principal.region) == (kind, uri, None)
    assert principal.hop == workload("edge")


def test_whom_an_edge_let_in_by_a_token_has_no_certificate() -> None:
    assert not from_header(through_edge(operator()), DOMAIN).by_token
    assert from_header(f"URI={operator()},{element(workload('edge'))}", DOMAIN).by_token


def test_an_edge_speaks_for_itself_too() -> None:
    assert from_header(element(workload("edge")), DOMAIN).name == "edge"


@pytest.mark.parametrize(
    "forged",
    [
        element(operator()),
        through_edge(operator()),
        f"{element(operator())},{element(workload('edge', 'us'))}",
        'By=x;URI=spiffe://a/operator/b;Subject="",',
    ],
)
def test_what_a_workload_puts_in_front_proves_nothing(forged: str) -> None:
    principal = from_header(f"{forged},{element(workload('channels'))}", DOMAIN)
    assert principal.spiffe_id == workload("channels")


@pytest.mark.parametrize("claimed", [workload("channels", "us"), workload("edge", "us")])
def test_an_edge_vouches_for_no_workload(claimed: str) -> None:
    """Else whoever holds an edge's key could renew as any workload."""
    with pytest.raises(UntrustedCaller, match="operators and devices alone"):
        from_header(through_edge(claimed), DOMAIN)


@pytest.mark.parametrize(
    ("subject", "enrolled_ms"),
    [
        ("dnQualifier=1700000000123,CN=cam-1.device.isthmus.test", 1_700_000_000_123),
        ("CN=cam-1.device.isthmus.test", None),
        ("CN=x\\,dnQualifier=17", None),
        ("dnQualifier=17,dnQualifier=18,CN=x", None),
        ("dnQualifier=-1,CN=x", None),
    ],
)
def test_an_edge_says_when_its_client_enrolled(subject: str, enrolled_ms: int | None) -> None:
    client = f'Subject="{subject}";URI={device()}'
    assert from_header(f"{client},{element(workload('edge'))}", DOMAIN).enrolled_ms == enrolled_ms
    forged = f"{client},{element(workload('channels'))}"
    assert from_header(forged, DOMAIN).enrolled_ms is None


def test_what_stands_before_the_edges_own_client_proves_nothing() -> None:
    principal = from_header(f"{element(operator())},{through_edge(device())}", DOMAIN)
    assert principal.spiffe_id == device()


@pytest.mark.parametrize(
    "opening",
    [
        'Hash=x;URI={edge};Subject="',
        'URI={edge},URI={operator};X="',
        'URI={operator};X="\\',
        '"',
    ],
)
def test_an_open_quote_never_hides_the_peer(opening: str) -> None:
    front = opening.format(edge=workload("edge"), operator=operator())
    try:
        principal = from_header(f"{front},{element(workload('channels'))}", DOMAIN)
    except UntrustedCaller:
        return
    assert principal.spiffe_id == workload("channels")


@pytest.mark.parametrize(
    ("header", "why"),
    [
        ("", "named no peer"),
        (" , ", "named no peer"),
        ("By=x;Hash=y", "named no peer"),
        (f"{element(operator())},Hash=y", "named no peer"),
        (f"URI={operator()};URI={device()}", "named no peer"),
        ("URI=spiffe://other.test/operator/ann", "trust domain 'isthmus.test'"),
        (f"URI=https://{DOMAIN}/operator/ann", "no identity"),
        (f"URI={operator()}/more", "no identity"),
        (f"URI={operator('Ann')}", "no identity"),
        (f"URI=spiffe://{DOMAIN}/workload/channels", "no identity"),
        (through_edge("spiffe://other.test/operator/ann"), "no identity"),
    ],
)
def test_what_names_nobody_is_refused(header: str, why: str) -> None:
    with pytest.raises(UntrustedCaller, match=why):
        from_header(header, DOMAIN)


def test_quoted_values_hold_separators() -> None:
    uri = workload("channels")
    header = f'Subject="CN=a,O=b;URI={operator()}";URI="{uri}";DNS=channels.eu.{DOMAIN}'
    assert from_header(header, DOMAIN).spiffe_id == uri
