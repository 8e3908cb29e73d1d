"""Statements of a workload, signed with its certificate's key: anyone verifies them by the roots.

A statement is judged at the time when it was made. So it outlives the certificate, which lasts an
hour, and is verified by whoever meets it days later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from mesh.identity import folder, keys, spiffe
from mesh.identity.errors import SpiffeError, StatementRefused

_UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.UnsupportedGeneralNameType,
)
"""What reading a certificate of an attacker's making may raise."""


@dataclass(frozen=True)
class Signed:
    """A signature (ECDSA with SHA-256, ASN.1 DER), and certificates in DER: leaf, then issuers."""

    signature: bytes
    certificates: tuple[bytes, ...]


def sign(held: folder.Held, purpose: bytes, content: bytes) -> Signed:
    """Signs a statement. `purpose` keeps one kind of statement from passing as another."""
    key = keys.read_key(held.key_pem)
    certificates = x509.load_pem_x509_certificates(held.chain_pem)
    return Signed(
        key.sign(_signed(purpose, content), ec.ECDSA(hashes.SHA256())),
        tuple(c.public_bytes(serialization.Encoding.DER) for c in certificates),
    )


def verify(
    signed: Signed, purpose: bytes, content: bytes, made: datetime, roots_pem: bytes
) -> spiffe.Identity:
    """Who made a statement at the time `made`, which the content must say itself.

    Raises `StatementRefused` unless a certificate below the roots, valid at that time, did.
    """
    try:
        roots = Store(x509.load_pem_x509_certificates(roots_pem))
        leaf, *issuers = map(x509.load_der_x509_certificate, signed.certificates)
        PolicyBuilder().store(roots).time(made).build_client_verifier().verify(leaf, issuers)
        return _check(leaf, signed.signature, _signed(purpose, content))
    except VerificationError as error:
        raise StatementRefused(f"no root vouches for its certificate at {made}: {error}") from None
    except InvalidSignature:
        raise StatementRefused("its certificate's key did not sign it") from None
    except (*_UNREADABLE, SpiffeError) as error:
        raise StatementRefused(f"its certificate cannot be read: {error}") from None


def _check(leaf: x509.Certificate, signature: bytes, signed: bytes) -> spiffe.Identity:
    key = leaf.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ValueError("it has no elliptic-curve key")
    key.verify(signature, signed, ec.ECDSA(hashes.SHA256()))
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uris: Sequence[str] = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise ValueError("it names no SPIFFE ID")
    return spiffe.parse(uris[0])


def _signed(purpose: bytes, content: bytes) -> bytes:
    return len(purpose).to_bytes(4, "big") + purpose + content
