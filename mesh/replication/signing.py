"""Signatures of a workload's changes, rooted in its certificate.

The process makes an Ed25519 key for itself, which is never stored, and states with the key of the
workload's certificate that it signs for the region's group. Frames keep their signatures and peers
keep the statement, so that both are verified long after process and certificate have ended.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from google.protobuf.message import DecodeError
from isthmus.replication.v1 import signature_pb2

from mesh.identity import folder, statements
from mesh.identity.errors import IdentityError
from mesh.identity.spiffe import WorkloadId
from mesh.replication.core.errors import SignatureInvalid
from mesh.replication.core.signatures import KEY_ID_BYTES, Key

KEY_LIFETIME_MS = 24 * 3600 * 1000
"""For so long a key signs at most; the next one is made at half of it."""

_RETRY_MS = 30 * 1000
_LATEST_MS = 1 << 46  # the year 4199
_PURPOSE = b"isthmus origin key 1"

_log = logging.getLogger("isthmus.replication")


class WorkloadSigning:
    """See `mesh.replication.core.signatures.Signing`.

    `identity` is the folder that holds the certificate of `workload` and the mesh's roots; `clock`
    gives nanoseconds since 1970.
    """

    def __init__(
        self, group: str, workload: WorkloadId, identity: Path, clock: Callable[[], int]
    ) -> None:
        self._group = group
        self._workload = workload
        self._identity = identity
        self._clock = clock
        self._current: tuple[Ed25519PrivateKey, Key] | None = None
        self._tried_ms = self._renew_ms = 0

    def key(self) -> Key | None:
        """The key that `sign` uses from now on; None while the region has no identity."""
        now_ms = self._clock() // 1_000_000
        # A clock that is set back makes the last attempt one of the future.
        if not self._tried_ms <= now_ms < self._renew_ms:
            self._tried_ms = now_ms
            self._renew(now_ms)
        return None if self._current is None else self._current[1]

    def _renew(self, now_ms: int) -> None:
        try:
            self._current = self._make(now_ms)
            self._renew_ms = now_ms + KEY_LIFETIME_MS // 2
        except (IdentityError, SignatureInvalid) as error:
            # Writing goes on: peers take the changes from here, and hold what others relay.
            _log.warning("group %s: changes cannot be signed anew: %s", self._group, error)
            self._renew_ms = now_ms + _RETRY_MS

    def _make(self, now_ms: int) -> tuple[Ed25519PrivateKey, Key]:
        held = folder.read(self._identity)
        private = Ed25519PrivateKey.generate()
        statement = signature_pb2.OriginKeyStatement(
            group=self._group,
            region=self._workload.region,
            public_key=private.public_key().public_bytes_raw(),
            since_ms=now_ms,
            until_ms=now_ms + KEY_LIFETIME_MS,
        ).SerializeToString(deterministic=True)
        signed = statements.sign(held, _PURPOSE, statement)
        message = signature_pb2.OriginKey(
            statement=statement, signature=signed.signature, certificates=signed.certificates
        )
        key = self.read(message.SerializeToString(deterministic=True))
        # What nobody would believe is better not said; a certificate that ended is renewed soon.
        self.check(key)
        return private, key

    def sign(self, content: bytes) -> bytes:
        """A signature by the key that `key` gave last."""
        assert self._current is not None  # noqa: S101 # `key` gave one
        return self._current[0].sign(content)

    def read(self, statement: bytes) -> Key:
        """The key that a statement introduces, unchecked. Raises `SignatureInvalid`."""
        try:
            message = signature_pb2.OriginKey.FromString(statement)
            said = signature_pb2.OriginKeyStatement.FromString(message.statement)
            Ed25519PublicKey.from_public_bytes(said.public_key)
        except (DecodeError, ValueError) as error:
            raise SignatureInvalid(f"a region's key is damaged: {error}") from None
        if said.group != self._group:
            raise SignatureInvalid(f"the key of {said.region} is group {said.group!r}'s")
        lifetime = said.until_ms - said.since_ms
        if not 0 < lifetime <= KEY_LIFETIME_MS or not 0 < said.since_ms < _LATEST_MS:
            raise SignatureInvalid(f"the key of {said.region} is for a time that cannot be")
        id = hashlib.sha256(said.public_key).digest()[:KEY_ID_BYTES]
        return Key(id, said.region, said.since_ms, said.until_ms, said.public_key, statement)

    def check(self, key: Key) -> None:
        """Raises `SignatureInvalid` unless the key's region made its statement."""
        message = signature_pb2.OriginKey.FromString(key.statement)
        signed = statements.Signed(message.signature, tuple(message.certificates))
        made = datetime.fromtimestamp(key.since_ms / 1000, UTC)
        try:
            held = folder.read(self._identity)
            roots = held.trust_pem + held.former_pem
            maker = statements.verify(signed, _PURPOSE, message.statement, made, roots)
        except IdentityError as error:
            raise SignatureInvalid(f"the key of {key.region} is not believed: {error}") from None
        expected = WorkloadId(self._workload.trust_domain, key.region, self._workload.name)
        if maker != expected:
            raise SignatureInvalid(f"{maker.uri} stated a key of {expected.uri}")

    def verify(self, key: Key, signature: bytes, content: bytes) -> bool:
        """Whether the key made the signature."""
        try:
            Ed25519PublicKey.from_public_bytes(key.public).verify(signature, content)
        except InvalidSignature:
            return False
        return True
