"""Signing without certificates: each region has a secret, and who holds none makes no signature."""

from __future__ import annotations

import hashlib
import hmac

from google.protobuf.message import DecodeError
from isthmus.replication.v1 import signature_pb2

from mesh.replication.core.errors import SignatureInvalid
from mesh.replication.core.signatures import KEY_ID_BYTES, Key, Keyring

_FOREVER_MS = 1 << 60


def keyring(region: str, stored: list[bytes] | None = None) -> Keyring:
    """What a region knows of keys, its own included."""
    return Keyring("channels", MemorySigning(region), stored or ())


class MemorySigning:
    """See `mesh.replication.core.signatures.Signing`."""

    def __init__(self, region: str, since_ms: int = 0, until_ms: int = _FOREVER_MS) -> None:
        self.region = region
        said = signature_pb2.OriginKeyStatement(
            region=region,
            public_key=_secret(region) + since_ms.to_bytes(8, "big"),
            since_ms=since_ms,
            until_ms=until_ms,
        ).SerializeToString()
        message = signature_pb2.OriginKey(statement=said, signature=_mac(region, said))
        self._key = self.read(message.SerializeToString())

    def key(self) -> Key | None:
        return self._key

    def sign(self, content: bytes) -> bytes:
        return _mac(self.region, content)

    def read(self, statement: bytes) -> Key:
        try:
            message = signature_pb2.OriginKey.FromString(statement)
            said = signature_pb2.OriginKeyStatement.FromString(message.statement)
        except DecodeError:
            raise SignatureInvalid("a damaged key") from None
        id = hashlib.sha256(said.public_key).digest()[:KEY_ID_BYTES]
        return Key(id, said.region, said.since_ms, said.until_ms, said.public_key, statement)

    def check(self, key: Key) -> None:
        message = signature_pb2.OriginKey.FromString(key.statement)
        if message.signature != _mac(key.region, message.statement):
            raise SignatureInvalid(f"the key of {key.region} is not believed")

    def verify(self, key: Key, signature: bytes, content: bytes) -> bool:
        return signature == _mac(key.region, content)


def _secret(region: str) -> bytes:
    return hashlib.sha256(f"secret of {region}".encode()).digest()


def _mac(region: str, content: bytes) -> bytes:
    return hmac.digest(_secret(region), content, "sha256")
