"""The certificate authority, without I/O: a root, an issuing certificate in each region, leaves.

Profiles follow RFC 5280 and the SPIFFE X.509-SVID standard. Every certificate carries subject and
authority key identifiers, so that a verifier that holds several roots or issuers with one name
finds the right one while they rotate.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mesh.identity import keys
from mesh.identity.errors import IssuerExpired, SigningRequestRefused
from mesh.identity.spiffe import Identity

LEAF_LIFETIME = timedelta(hours=1)
REGION_LIFETIME = timedelta(days=365)
ROOT_LIFETIME = timedelta(days=3650)
BACKDATED = timedelta(minutes=2)
"""How far a certificate's beginning lies in the past, for verifiers whose clocks are behind."""


@dataclass(frozen=True)
class Issuer:
    """A certificate that signs others, with its key; `root` is the certificate at the top.

    While the root is replaced `others` are trusted beside it: the next one, or the one before.
    `former` are trusted no more, but in what was stated below them.
    """

    certificate: x509.Certificate
    key: keys.PrivateKey
    root: x509.Certificate
    others: tuple[x509.Certificate, ...] = ()
    former: tuple[x509.Certificate, ...] = ()

    @property
    def root_hash(self) -> str:
        """SHA-256 of the root's DER in hexadecimal: what join tokens pin."""
        return fingerprint(self.root)


@dataclass(frozen=True)
class Leaf:
    """A signed certificate: what the holder of the key needs to use it.

    Of the roots in `trust_pem` its own comes first.
    """

    chain_pem: bytes
    trust_pem: bytes
    former_pem: bytes
    identity: Identity
    not_after: datetime


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of the certificate's DER in hexadecimal."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def fingerprints(pem: bytes) -> frozenset[str]:
    """The fingerprints of all certificates in a PEM. Raises `ValueError` if it is none."""
    return frozenset(map(fingerprint, x509.load_pem_x509_certificates(pem)))


def make_root(trust_domain: str, now: datetime) -> Issuer:
    """A self-signed root for a trust domain. It signs the regions' issuing certificates only."""
    key = keys.make_key()
    name = _name(f"{trust_domain} root")
    builder = _ca(name, name, key.public_key(), key.public_key(), now, now + ROOT_LIFETIME, 1)
    certificate = builder.sign(key, hashes.SHA256())
    return Issuer(certificate, key, certificate)


def make_region_issuer(root: Issuer, trust_domain: str, region: str, now: datetime) -> Issuer:
    """A region's issuing certificate, which signs leaves alone and never outlives the root.

    Raises `IssuerExpired` if the root has ended.
    """
    end = _end(root.certificate, now, REGION_LIFETIME)
    key = keys.make_key()
    # A clock that is behind the root's maker gives no earlier beginning than the root's.
    begin = max(now, root.certificate.not_valid_before_utc + BACKDATED)
    builder = _ca(
        _name(f"{trust_domain} {region} issuing"),
        root.certificate.subject,
        key.public_key(),
        root.key.public_key(),
        begin,
        end,
        0,
    )
    certificate = builder.sign(root.key, hashes.SHA256())
    return Issuer(certificate, key, root.root, root.others, root.former)


def sign(
    issuer: Issuer,
    signing_request: bytes,
    identity: Identity,
    now: datetime,
    hosts: Sequence[str] = (),
    enrolled_ms: int | None = None,
) -> Leaf:
    """A leaf for `identity` over the key in a DER signing request.

    Nothing but the key is read from the request. `hosts` are further DNS names and IP addresses,
    for edges. `enrolled_ms` is when the holder enrolled (milliseconds since 1970); it stands in the
    subject's dnQualifier (RFC 4519, 2.8), and goes from leaf to leaf. The leaf lasts
    `LEAF_LIFETIME`, or as long as its issuer if that ends sooner.

    Raises `SigningRequestRefused` unless the request is self-signed by an ECDSA P-256 key, and
    `IssuerExpired` if the issuer has ended.
    """
    public_key = _requested_key(signing_request)
    end = _end(issuer.certificate, now, LEAF_LIFETIME)
    names: list[x509.GeneralName] = [
        x509.UniformResourceIdentifier(identity.uri),
        x509.DNSName(identity.dns_name),
        *map(_host, hosts),
    ]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(_name(identity.dns_name, enrolled_ms))
        .issuer_name(issuer.certificate.subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(max(now - BACKDATED, issuer.certificate.not_valid_before_utc))
        .not_valid_after(end)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(ca=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage(
                [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            ),
            critical=False,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(_issued_by(issuer.certificate), critical=False)
        .sign(issuer.key, hashes.SHA256())
    )
    return Leaf(
        chain_pem=pem(certificate, issuer.certificate),
        trust_pem=pem(issuer.root, *issuer.others),
        former_pem=pem(*issuer.former),
        identity=identity,
        not_after=certificate.not_valid_after_utc,
    )


def check(signing_request: bytes) -> bytes:
    """SHA-256 of the public key (its SubjectPublicKeyInfo in DER) in a DER signing request.

    Raises `SigningRequestRefused` unless `sign` would take the request.
    """
    key = _requested_key(signing_request)
    encoded = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(encoded).digest()


def pem(*certificates: x509.Certificate) -> bytes:
    """Certificates as one PEM, in the order given."""
    return b"".join(c.public_bytes(serialization.Encoding.PEM) for c in certificates)


def _requested_key(signing_request: bytes) -> ec.EllipticCurvePublicKey:
    try:
        request = x509.load_der_x509_csr(signing_request)
        key = request.public_key()
        signed = request.is_signature_valid
    except UnsupportedAlgorithm as error:
        raise SigningRequestRefused(f"unsupported algorithm: {error}") from None
    except (ValueError, TypeError, InvalidSignature):
        raise SigningRequestRefused("not a PKCS #10 signing request in DER") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise SigningRequestRefused("the key must be ECDSA P-256")
    if not signed:
        raise SigningRequestRefused("the request's signature does not match its key")
    return key


def _end(issuer: x509.Certificate, now: datetime, lifetime: timedelta) -> datetime:
    # X.509 counts whole seconds; rounding down keeps every leaf within its issuer.
    end = min(now + lifetime, issuer.not_valid_after_utc).replace(microsecond=0)
    if end <= now:
        raise IssuerExpired(
            f"{issuer.subject.rfc4514_string()} ended at {issuer.not_valid_after_utc:%F %T} UTC: "
            "`isthmus up` renews it when it starts"
        )
    return end


def _ca(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    issuer_key: ec.EllipticCurvePublicKey,
    now: datetime,
    end: datetime,
    path_length: int,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_key_usage(ca=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False
        )
    )


def _issued_by(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str, qualifier: int | None = None) -> x509.Name:
    # RFC 5280 allows 64 characters; identities are in the subject alternative names.
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])]
    if qualifier is not None:
        attributes.append(x509.NameAttribute(NameOID.DN_QUALIFIER, str(qualifier)))
    return x509.Name(attributes)


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
