"""Identities that another authority issued, judged before anything runs with them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from mesh.identity import folder, keys, spiffe
from mesh.identity.errors import IdentityFolderError, SpiffeError
from mesh.identity.spiffe import Identity


@dataclass(frozen=True)
class Provided:
    """A leaf with its issuers below the root, its key, and the roots to trust, all in PEM."""

    chain_pem: bytes
    key_pem: bytes
    trust_pem: bytes

    def identity(self, now: datetime) -> Identity:
        """Whose it is. Raises `IdentityFolderError` unless a mesh can run with it.

        It names one SPIFFE ID, and the DNS name that goes with that; its key is of P-256; and the
        roots vouch for it now, as a client and as a server.
        """
        try:
            leaf, *issuers = x509.load_pem_x509_certificates(self.chain_pem)
            roots = x509.load_pem_x509_certificates(self.trust_pem)
            key = keys.read_key(self.key_pem)
        except ValueError as error:
            raise IdentityFolderError(f"it cannot be read: {error}") from None
        if key.public_key() != leaf.public_key():
            raise IdentityFolderError("the key is not the certificate's")
        who = _named(leaf)
        dns = x509.DNSName(who.dns_name)
        policy = PolicyBuilder().store(Store(roots)).time(now)
        try:
            policy.build_client_verifier().verify(leaf, issuers)
            policy.build_server_verifier(dns).verify(leaf, issuers)
        except VerificationError as error:
            raise IdentityFolderError(
                f"the roots do not vouch for it at {now:%F %T} UTC, as a client and as the server "
                f"{who.dns_name}: {error}"
            ) from None
        return who

    def install(self, into: Path) -> None:
        """Makes it what the folder holds; a sidecar that runs takes it up within a second."""
        folder.write(into, self.chain_pem, self.key_pem, self.trust_pem)


def _named(leaf: x509.Certificate) -> Identity:
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        raise IdentityFolderError("it has no subject alternative names") from None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise IdentityFolderError(f"it names {len(uris)} URIs: write one, its SPIFFE ID")
    try:
        return spiffe.parse(uris[0])
    except SpiffeError as error:
        raise IdentityFolderError(str(error)) from None
