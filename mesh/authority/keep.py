"""Issuers in files: one PEM of mode 0600, replaced atomically.

Certificate, root, other roots that are trusted; the key; roots of the past.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography import x509

from mesh.identity import authority, keys
from mesh.identity.authority import Issuer
from mesh.identity.errors import IdentityError

_KEY = b"-----BEGIN PRIVATE KEY-----"
_KEY_END = b"-----END PRIVATE KEY-----\n"
ISSUING = "issuing.pem"
TOKENS = "tokens.sqlite"
_ROOT = "root.pem"
_ROOT_CERTIFICATE = "root.crt"


class AuthorityDamaged(IdentityError):
    """A file of the authority cannot be used; the message says what to do."""


def root_file(state: Path) -> Path:
    """The root's certificate and key, below the state's root folder."""
    return state / "root" / _ROOT


def data_folder(state: Path, region: str) -> Path:
    """What a region's authority keeps: `Place.data` of that workload."""
    return state / region / "authority" / "data"


def load(path: Path) -> Issuer | None:
    """The issuer in a file; None if there is no file. Raises `AuthorityDamaged`."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        certificates, begin, rest = content.partition(_KEY)
        key, end, former = rest.partition(_KEY_END)
        own, root, *others = x509.load_pem_x509_certificates(certificates)
        return Issuer(
            own,
            keys.read_key(begin + key + end),
            root,
            tuple(others),
            tuple(x509.load_pem_x509_certificates(former)) if former.strip() else (),
        )
    except ValueError as error:
        raise AuthorityDamaged(
            f"{path} is damaged ({error}): restore it from a backup, or delete it and run "
            "`isthmus up`, which makes a new one and has everybody below it enrol again"
        ) from None


def save(path: Path, issuer: Issuer) -> None:
    """Writes an issuer; on disk before it returns."""
    replace(
        path,
        authority.pem(issuer.certificate, issuer.root, *issuer.others)
        + keys.key_pem(issuer.key)
        + authority.pem(*issuer.former),
        0o600,
    )


def save_root(state: Path, root: Issuer) -> None:
    """Writes the root, and what is trusted once more for whoever wants to trust it."""
    save(root_file(state), root)
    trusted = authority.pem(root.certificate, *root.others)
    replace(root_file(state).with_name(_ROOT_CERTIFICATE), trusted, 0o644)


def root_hash(state: Path) -> str | None:
    """The hash of the present root, as join tokens pin it; None before the first preparation."""
    try:
        content = root_file(state).with_name(_ROOT_CERTIFICATE).read_bytes()
        return authority.fingerprint(x509.load_pem_x509_certificate(content))
    except (OSError, ValueError):
        return None


@contextmanager
def locked(state: Path) -> Iterator[None]:
    """One preparation at a time, in this process and others: there is one root."""
    folder = root_file(state).parent
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def replace(path: Path, content: bytes, mode: int) -> None:
    """Writes a file whole; on disk before it returns."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
