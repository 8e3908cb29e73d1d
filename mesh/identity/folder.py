"""The identity folder: certificate, key and roots, replaced together or not at all.

    tls.crt -> ..data/tls.crt        leaf, then its issuers below the root
    tls.key -> ..data/tls.key        mode 0600
    trust.crt -> ..data/trust.crt    the roots, the leaf's own first
    former.crt -> ..data/former.crt  roots of the past, for what was stated below them
    ..data -> ..<generation>/        swapped by one rename

This is how Kubernetes mounts secrets, and what Envoy's `watched_directory` watches for: a reader
never sees a certificate with another generation's key.
"""

from __future__ import annotations

import os
import secrets
import shutil
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from mesh.identity import keys
from mesh.identity.errors import IdentityFolderError

CERTIFICATE = "tls.crt"
KEY = "tls.key"
TRUST = "trust.crt"
FORMER = "former.crt"
_DATA = "..data"
_GENERATION = "..g-"


@dataclass(frozen=True)
class Held:
    """What a folder holds."""

    spiffe_id: str
    not_before: datetime
    not_after: datetime
    chain_pem: bytes
    key_pem: bytes
    trust_pem: bytes
    former_pem: bytes = b""

    @property
    def root_hash(self) -> str:
        """SHA-256 of the own root's DER in hexadecimal: what join tokens pin."""
        root = x509.load_pem_x509_certificate(self.trust_pem)
        return root.fingerprint(hashes.SHA256()).hex()

    @property
    def half_life(self) -> datetime:
        """When to rotate: halfway between beginning and end."""
        return self.not_before + (self.not_after - self.not_before) / 2


def write(
    folder: Path, chain_pem: bytes, key_pem: bytes, trust_pem: bytes, former_pem: bytes = b""
) -> None:
    """Makes these the folder's identity. The key of the generation before is removed.

    On disk before it returns; at every moment a reader finds one whole generation.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    generation = folder / f"{_GENERATION}{secrets.token_hex(8)}"
    generation.mkdir(mode=0o700)
    _write(generation / CERTIFICATE, chain_pem, 0o644)
    _write(generation / KEY, key_pem, 0o600)
    _write(generation / TRUST, trust_pem, 0o644)
    _write(generation / FORMER, former_pem, 0o644)
    _sync(generation)
    _link(folder, _DATA, generation.name)
    for name in (CERTIFICATE, KEY, TRUST, FORMER):
        if not (folder / name).is_symlink():
            _link(folder, name, f"{_DATA}/{name}")
    _sync(folder)
    for old in folder.glob(f"{_GENERATION}*"):
        if old.name != generation.name:
            shutil.rmtree(old, ignore_errors=True)


def read(folder: Path) -> Held:
    """The folder's identity. Raises `IdentityFolderError` if there is none or it is damaged."""
    while True:
        # The link is read once, not followed: a rotation meanwhile must not mix two generations.
        try:
            generation = (folder / _DATA).readlink()
        except OSError:
            raise IdentityFolderError(f"{folder} holds no identity yet") from None
        try:
            return _read(folder, folder / generation)
        except FileNotFoundError:
            # Rotated away since the link was read, or gone for good.
            if generation == (folder / _DATA).readlink():
                raise IdentityFolderError(
                    f"{folder} lacks files: delete it, and the next start makes a new identity"
                ) from None


def generation(folder: Path) -> str:
    """The name of what the folder holds: another one after each `write`; empty for nothing."""
    try:
        return (folder / _DATA).readlink().name
    except OSError:
        return ""


def _read(folder: Path, data: Path) -> Held:
    try:
        chain, key, trust = ((data / name).read_bytes() for name in (CERTIFICATE, KEY, TRUST))
        # Identities from before roots were replaced have none.
        former = (data / FORMER).read_bytes() if (data / FORMER).exists() else b""
        leaf = x509.load_pem_x509_certificate(chain)
        if keys.read_key(key).public_key() != leaf.public_key():
            raise ValueError("the key is not the certificate's")
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        if len(uris) != 1:
            raise ValueError("the certificate names no SPIFFE ID")
    except FileNotFoundError:
        raise
    except (OSError, ValueError, x509.ExtensionNotFound) as error:
        raise IdentityFolderError(
            f"{folder} is damaged ({error}): delete it, and the next start makes a new identity"
        ) from None
    return Held(
        uris[0], leaf.not_valid_before_utc, leaf.not_valid_after_utc, chain, key, trust, former
    )


def _write(path: Path, content: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _link(folder: Path, name: str, target: str) -> None:
    fresh = folder / f"{name}.new"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.replace(folder / name)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
