"""Whom an edge let in, signed: what is believed, and what is not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from isthmus.mesh.v1 import principal_pb2 as pb

from mesh.identity import authority, end_principals, keys
from mesh.identity.end_principals import LIFETIME, SKEW
from mesh.identity.errors import StatementRefused
from mesh.identity.folder import Held
from mesh.identity.spiffe import DeviceId, Identity, OperatorId, WorkloadId
from mesh.place import EDGE

DOMAIN = "mesh.test"
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
ANN = OperatorId(DOMAIN, "ann")
EDGE_EU = WorkloadId(DOMAIN, "eu", EDGE)
ROOT = authority.make_root(DOMAIN, NOW)
ISSUER = authority.make_region_issuer(ROOT, DOMAIN, "eu", NOW)
ROOTS = authority.pem(ROOT.certificate)


def _held(identity: Identity, root: authority.Issuer = ROOT) -> Held:
    issuer = ISSUER if root is ROOT else authority.make_region_issuer(root, DOMAIN, "eu", NOW)
    key = keys.make_key()
    leaf = authority.sign(issuer, keys.signing_request(key), identity, NOW)
    return Held(identity.uri, NOW, leaf.not_after, leaf.chain_pem, keys.key_pem(key), ROOTS)


HELD = _held(EDGE_EU)


@pytest.mark.parametrize("who", [ANN, DeviceId(DOMAIN, "encoder-1")])
def test_what_an_edge_signs_is_believed_anywhere_below_the_root(who: OperatorId | DeviceId) -> None:
    value = end_principals.state(HELD, who, NOW)
    found = end_principals.verify(value, DOMAIN, ROOTS, NOW + timedelta(seconds=90))
    assert (found.identity, found.edge, found.value) == (who, EDGE_EU, value)
    assert found.until == NOW + LIFETIME


def test_only_edges_say_who_came_from_outside() -> None:
    for other in (WorkloadId(DOMAIN, "eu", "channels"), ANN, DeviceId(DOMAIN, "edge")):
        value = end_principals.state(_held(other), ANN, NOW)
        with pytest.raises(StatementRefused, match="is no edge"):
            end_principals.verify(value, DOMAIN, ROOTS, NOW)


def test_an_edge_of_another_root_or_domain_says_nothing() -> None:
    strange = _held(EDGE_EU, authority.make_root(DOMAIN, NOW))
    with pytest.raises(StatementRefused, match="no root vouches"):
        end_principals.verify(end_principals.state(strange, ANN, NOW), DOMAIN, ROOTS, NOW)
    with pytest.raises(StatementRefused, match="no operator or device"):
        value = end_principals.state(HELD, OperatorId("other.test", "ann"), NOW)
        end_principals.verify(value, DOMAIN, ROOTS, NOW)


def test_it_ends() -> None:
    value = end_principals.state(HELD, ANN, NOW)
    for late in (LIFETIME + SKEW, -SKEW - timedelta(seconds=1), timedelta(hours=1)):
        with pytest.raises(StatementRefused):
            end_principals.verify(value, DOMAIN, ROOTS, NOW + late)


def test_an_edge_cannot_make_it_last() -> None:
    for since, until in ((NOW, NOW + 2 * LIFETIME), (NOW, NOW)):
        statement = pb.EndPrincipalStatement(
            spiffe_id=ANN.uri,
            since_ms=int(since.timestamp() * 1000),
            until_ms=int(until.timestamp() * 1000),
        ).SerializeToString()
        signed = end_principals.statements.sign(HELD, end_principals._PURPOSE, statement)
        value = pb.EndPrincipal(
            statement=statement, signature=signed.signature, certificates=signed.certificates
        ).SerializeToString()
        with pytest.raises(StatementRefused, match="let"):
            end_principals.verify(value, DOMAIN, ROOTS, NOW)


VALUE = end_principals.state(HELD, ANN, NOW)


@given(st.binary(max_size=64))
def test_noise_is_refused_with_a_typed_error(value: bytes) -> None:
    with pytest.raises(StatementRefused):
        end_principals.verify(value, DOMAIN, ROOTS, NOW)


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
@given(st.integers(0, len(VALUE) - 1), st.integers(1, 255))
def test_a_changed_byte_never_makes_another_principal(at: int, by: int) -> None:
    changed = bytearray(VALUE)
    changed[at] ^= by
    try:
        found = end_principals.verify(bytes(changed), DOMAIN, ROOTS, NOW)
    except StatementRefused:
        return
    assert (found.identity, found.until) == (ANN, NOW + LIFETIME)
