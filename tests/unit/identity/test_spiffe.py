"""SPIFFE names: what is one of this mesh, and what only looks like it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.identity import spiffe
from mesh.identity.errors import SpiffeError
from mesh.identity.spiffe import DeviceId, Identity, OperatorId, WorkloadId

_names = st.from_regex(r"[a-z]([a-z0-9-]{0,30}[a-z0-9])?", fullmatch=True)
_domains = st.sampled_from(["isthmus.test", "a", "media.example.org"])
_identities = st.one_of(
    st.builds(WorkloadId, _domains, _names, _names),
    st.builds(DeviceId, _domains, _names),
    st.builds(OperatorId, _domains, _names),
)


@given(_identities)
def test_what_is_built_parses_back(identity: Identity) -> None:
    assert spiffe.parse(identity.uri) == identity
    assert spiffe.from_path(identity.trust_domain, identity.path) == identity


def test_the_uri_of_a_workload() -> None:
    identity = WorkloadId("isthmus.test", "eu", "channels")
    assert identity.uri == "spiffe://isthmus.test/region/eu/workload/channels"
    assert identity.dns_name == "channels.eu.isthmus.test"


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "https://isthmus.test/device/a",
        "spiffe://isthmus.test",
        "spiffe://isthmus.test/",
        "spiffe://isthmus.test/device/",
        "spiffe://isthmus.test/device/a/",
        "spiffe://isthmus.test/device/A",
        "spiffe://isthmus.test/device/a%2fb",
        "spiffe://isthmus.test/region/eu/workload/..",
        "spiffe://isthmus.test/region/eu/device/a",
        "spiffe://ISTHMUS.test/device/a",
        "spiffe:///device/a",
        "spiffe://isthmus.test/device/a\n",
    ],
)
def test_anything_else_is_nobody(uri: str) -> None:
    with pytest.raises(SpiffeError):
        spiffe.parse(uri)


def test_a_name_that_would_change_the_path_is_refused() -> None:
    with pytest.raises(SpiffeError, match="lower-case letters"):
        DeviceId("isthmus.test", "a/../operator/root")
