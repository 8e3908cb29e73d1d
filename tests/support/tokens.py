"""An issuer of JSON Web Tokens (RFC 7519), signing with ES256."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

ISSUER = "https://login.example.org"
AUDIENCE = "isthmus"
_SOON = timedelta(minutes=5)


class Issuer:
    """Holds a key and makes tokens, good ones unless told otherwise."""

    def __init__(self, key: ec.EllipticCurvePrivateKey | None = None) -> None:
        self._key = key or ec.generate_private_key(ec.SECP256R1())

    def key_set(self) -> str:
        """The public key (RFC 7517)."""
        numbers = self._key.public_key().public_numbers()
        key = {
            "kty": "EC",
            "crv": "P-256",
            "kid": "one",
            "alg": "ES256",
            "use": "sig",
            "x": encoded(numbers.x.to_bytes(32, "big")),
            "y": encoded(numbers.y.to_bytes(32, "big")),
        }
        return json.dumps({"keys": [key]})

    def token(
        self,
        subject: str | None,
        *,
        issuer: str = ISSUER,
        audience: str = AUDIENCE,
        expires: datetime | timedelta | None = _SOON,
        not_before: datetime | None = None,
        claims: Mapping[str, Any] | None = None,
    ) -> str:
        """A signed token; `expires` is a time, a while from now, or never."""
        claims = {"iss": issuer, "aud": [audience], **(claims or {})}
        if subject is not None:
            claims["sub"] = subject
        if isinstance(expires, timedelta):
            expires = datetime.now(UTC) + expires
        if expires is not None:
            claims["exp"] = int(expires.timestamp())
        if not_before is not None:
            claims["nbf"] = int(not_before.timestamp())
        signed = _signed({"alg": "ES256", "kid": "one"}, claims)
        der = self._key.sign(signed.encode(), ec.ECDSA(hashes.SHA256()))
        signature = b"".join(part.to_bytes(32, "big") for part in decode_dss_signature(der))
        return f"{signed}.{encoded(signature)}"

    def confused(self, subject: str) -> str:
        """One that takes the public key, which everyone has, for a shared secret."""
        claims = json.loads(decoded(self.token(subject).split(".")[1]))
        signed = _signed({"alg": "HS256", "kid": "one"}, claims)
        public = self.key_set().encode()
        return f"{signed}.{encoded(hmac.new(public, signed.encode(), hashlib.sha256).digest())}"


def encoded(data: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def decoded(text: str) -> bytes:
    """The bytes of such a text."""
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _signed(header: dict[str, Any], claims: dict[str, Any]) -> str:
    return ".".join(encoded(json.dumps(part).encode()) for part in (header, claims))
