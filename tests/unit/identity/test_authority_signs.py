"""The authority's invariants: who is signed, for how long, over which keys."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.identity import authority, keys
from mesh.identity.errors import IssuerExpired, SigningRequestRefused
from mesh.identity.spiffe import DeviceId, WorkloadId

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
DOMAIN = "mesh.test"
CHANNELS = WorkloadId(DOMAIN, "eu", "channels")
ROOT = authority.make_root(DOMAIN, NOW)
REGION = authority.make_region_issuer(ROOT, DOMAIN, "eu", NOW)
KEY = keys.make_key()
REQUEST = keys.signing_request(KEY)


def _leaf(leaf: authority.Leaf) -> x509.Certificate:
    return x509.load_pem_x509_certificate(leaf.chain_pem)


def _extension(certificate: x509.Certificate, kind: type) -> x509.ExtensionType:
    return certificate.extensions.get_extension_for_class(kind).value


@settings(max_examples=60)
@given(st.timedeltas(timedelta(0), timedelta(days=400)))
def test_a_leaf_never_outlives_its_issuer_nor_an_hour(later: timedelta) -> None:
    now = NOW + later
    end = REGION.certificate.not_valid_after_utc
    if now >= end:
        with pytest.raises(IssuerExpired, match="eu issuing ended at"):
            authority.sign(REGION, REQUEST, CHANNELS, now)
        return
    try:
        certificate = _leaf(authority.sign(REGION, REQUEST, CHANNELS, now))
    except IssuerExpired:
        assert end - now < timedelta(seconds=1)  # X.509 counts whole seconds
        return
    assert certificate.not_valid_after_utc <= end
    assert certificate.not_valid_after_utc <= now + authority.LEAF_LIFETIME
    assert certificate.not_valid_before_utc >= REGION.certificate.not_valid_before_utc
    assert certificate.not_valid_before_utc <= now


def test_a_region_never_outlives_its_root() -> None:
    late = NOW + authority.ROOT_LIFETIME - timedelta(days=10)
    region = authority.make_region_issuer(ROOT, DOMAIN, "eu", late)
    assert region.certificate.not_valid_after_utc == ROOT.certificate.not_valid_after_utc
    with pytest.raises(IssuerExpired):
        authority.make_region_issuer(ROOT, DOMAIN, "eu", NOW + authority.ROOT_LIFETIME)


def test_the_chain_verifies_and_is_bound_by_key_identifiers() -> None:
    certificate = _leaf(authority.sign(REGION, REQUEST, CHANNELS, NOW))
    certificate.verify_directly_issued_by(REGION.certificate)
    REGION.certificate.verify_directly_issued_by(ROOT.certificate)
    chain = (certificate, REGION.certificate, ROOT.certificate)
    for below, above in zip(chain, (*chain[1:], ROOT.certificate), strict=True):
        issued_by = _extension(below, x509.AuthorityKeyIdentifier)
        own = _extension(above, x509.SubjectKeyIdentifier)
        assert isinstance(issued_by, x509.AuthorityKeyIdentifier)
        assert isinstance(own, x509.SubjectKeyIdentifier)
        assert issued_by.key_identifier == own.digest


def test_only_issuers_may_sign_and_only_as_deep_as_the_mesh_is() -> None:
    certificate = _leaf(authority.sign(REGION, REQUEST, CHANNELS, NOW))
    expected = [
        (ROOT.certificate, True, 1),
        (REGION.certificate, True, 0),
        (certificate, False, None),
    ]
    for found, ca, path_length in expected:
        constraints = _extension(found, x509.BasicConstraints)
        usage = _extension(found, x509.KeyUsage)
        assert isinstance(constraints, x509.BasicConstraints)
        assert isinstance(usage, x509.KeyUsage)
        assert (constraints.ca, constraints.path_length) == (ca, path_length)
        assert (usage.key_cert_sign, usage.digital_signature) == (ca, not ca)


def test_a_leaf_names_spiffe_id_dns_name_and_an_edges_hosts() -> None:
    edge = WorkloadId(DOMAIN, "eu", "edge")
    leaf = authority.sign(REGION, REQUEST, edge, NOW, ["localhost", "127.0.0.1"])
    names = _extension(_leaf(leaf), x509.SubjectAlternativeName)
    assert isinstance(names, x509.SubjectAlternativeName)
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [edge.uri]
    assert names.get_values_for_type(x509.DNSName) == ["edge.eu.mesh.test", "localhost"]
    assert [str(a) for a in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]


def test_a_leaf_is_backdated_a_little_for_clocks_that_are_behind() -> None:
    later = NOW + timedelta(days=1)
    certificate = _leaf(authority.sign(REGION, REQUEST, CHANNELS, later))
    assert certificate.not_valid_before_utc == later - authority.BACKDATED


def test_the_subject_comes_from_the_authority_never_from_the_request() -> None:
    pretended = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "authority")]))
        .add_extension(
            x509.SubjectAlternativeName(
                [x509.UniformResourceIdentifier("spiffe://mesh.test/operator/root")]
            ),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(KEY, hashes.SHA256())
        .public_bytes(serialization.Encoding.DER)
    )
    device = DeviceId(DOMAIN, "encoder-1")
    certificate = _leaf(authority.sign(REGION, pretended, device, NOW))
    names = _extension(certificate, x509.SubjectAlternativeName)
    constraints = _extension(certificate, x509.BasicConstraints)
    assert isinstance(names, x509.SubjectAlternativeName)
    assert isinstance(constraints, x509.BasicConstraints)
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [device.uri]
    assert not constraints.ca
    assert "authority" not in certificate.subject.rfc4514_string()


def _request(
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey,
) -> bytes:
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, algorithm).public_bytes(serialization.Encoding.DER)


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(_request(rsa.generate_private_key(65537, 2048)), id="rsa"),
        pytest.param(_request(ec.generate_private_key(ec.SECP384R1())), id="p-384"),
        pytest.param(_request(ed25519.Ed25519PrivateKey.generate()), id="ed25519"),
    ],
)
def test_other_keys_than_p256_are_refused(request_: bytes) -> None:
    with pytest.raises(SigningRequestRefused, match="must be ECDSA P-256"):
        authority.sign(REGION, request_, CHANNELS, NOW)


def test_a_leaf_says_when_its_holder_enrolled() -> None:
    device = DeviceId(DOMAIN, "encoder-1")
    certificate = _leaf(authority.sign(REGION, REQUEST, device, NOW, enrolled_ms=1_700_000_000_123))
    (found,) = certificate.subject.get_attributes_for_oid(NameOID.DN_QUALIFIER)
    assert found.value == "1700000000123"
    unsaid = _leaf(authority.sign(REGION, REQUEST, device, NOW))
    assert not unsaid.subject.get_attributes_for_oid(NameOID.DN_QUALIFIER)


def test_a_request_that_its_key_did_not_sign_is_refused() -> None:
    broken = bytearray(REQUEST)
    broken[-1] ^= 1  # the last byte of the signature
    with pytest.raises(SigningRequestRefused, match="signature does not match"):
        authority.sign(REGION, bytes(broken), CHANNELS, NOW)


@given(st.binary(max_size=300))
def test_noise_is_refused_with_a_typed_error(noise: bytes) -> None:
    with pytest.raises(SigningRequestRefused):
        authority.check(noise)
