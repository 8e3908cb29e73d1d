"""Who may come to an edge without a certificate of the mesh: the `edge` section of `mesh.yaml`.

edge:
  origins: [https://console.example.org]     # pages whose scripts may call
  jwt:
    issuer: https://login.example.org        # the claim `iss`
    audience: isthmus                        # one of the claim `aud`
    keys: operators.jwks.json                # JSON Web Key Set (RFC 7517), beside mesh.yaml; or
                                             # the key set itself
    operators:                               # who of them is one; without it, everyone
      claim: groups                          # or a path, such as [realm_access, roles]
      values: [live-operations]              # of which the claim is one, or has one
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_ORIGIN = re.compile(
    r"https://[a-z0-9.-]+(:[0-9]{1,5})?|http://(localhost|127\.0\.0\.1)(:[0-9]{1,5})?"
)
_LEAST_RSA_BITS = 2048
_PRIVATE = ("d", "p", "q", "dp", "dq", "qi", "oth", "k")
_ALGORITHMS = {
    "RSA": {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"},
    "EC": {"ES256", "ES384", "ES512"},
    "OKP": {"EdDSA"},
}
_MEMBERS = {
    "RSA": ("n", "e"),
    "EC": ("crv", "x", "y"),
    "OKP": ("crv", "x"),
}
_CURVES = {"EC": {"P-256", "P-384", "P-521"}, "OKP": {"Ed25519"}}


class AccessError(Exception):
    """The section cannot be used: `where` in it, and what to write instead."""

    def __init__(self, where: str, remedy: str) -> None:
        super().__init__(f"{where}: {remedy}")
        self.where = where
        self.remedy = remedy


@dataclass(frozen=True)
class Claim:
    """A claim, by its path, and the texts of which it must be one, or hold one in a list."""

    path: tuple[str, ...]
    values: tuple[str, ...]


@dataclass(frozen=True)
class JwtIssuer:
    """Whose tokens (RFC 7519) stand for operators, for whom they are, and how they are verified.

    `keys` is a key set as JSON, public members alone, in one form whatever the file's was.
    `operators` is what gives a token's subject the contracts' role; None: any good token does.
    """

    issuer: str
    audience: str
    keys: str
    operators: Claim | None = None


@dataclass(frozen=True)
class Access:
    """Nobody but holders of certificates, unless said otherwise."""

    origins: tuple[str, ...] = ()
    jwt: JwtIssuer | None = None

    @property
    def certificates_only(self) -> bool:
        """Whether every connection must bring one. Browsers ask about origins without."""
        return not self.origins and self.jwt is None


def read_access(value: Any, folder: Path) -> Access:
    """Reads the section; files are relative to `folder`. Raises `AccessError`."""
    section = _mapping(value, "edge", ("origins", "jwt"))
    return Access(
        _origins(section.get("origins") or []),
        None if section.get("jwt") is None else _jwt(section["jwt"], folder),
    )


def _origins(value: Any) -> tuple[str, ...]:
    where = "edge.origins"
    if not isinstance(value, list):
        raise AccessError(where, "write a list such as [https://console.example.org]")
    for at, origin in enumerate(value):
        if not isinstance(origin, str) or not _ORIGIN.fullmatch(origin):
            raise AccessError(
                f"{where}[{at}]",
                f"{origin!r}: write scheme, host and port as browsers do, such as "
                "https://console.example.org, without a path, a * or a slash at the end; "
                "http is for localhost alone",
            )
    if len(set(value)) != len(value):
        raise AccessError(where, "an origin is there twice")
    return tuple(value)


def _jwt(value: Any, folder: Path) -> JwtIssuer:
    section = _mapping(value, "edge.jwt", ("issuer", "audience", "keys", "operators"))
    texts = {}
    for name, example in (
        ("issuer", "https://login.example.org, exactly as the claim `iss` has it"),
        ("audience", "isthmus, one of what the claim `aud` has"),
    ):
        found = section.get(name)
        if not isinstance(found, str) or not found:
            raise AccessError(f"edge.jwt.{name}", f"write a string such as {example}")
        texts[name] = found
    return JwtIssuer(
        texts["issuer"],
        texts["audience"],
        _keys(section.get("keys"), folder),
        None if section.get("operators") is None else _claim(section["operators"]),
    )


def _claim(value: Any) -> Claim:
    where = "edge.jwt.operators"
    section = _mapping(value, where, ("claim", "values"))
    claim = section.get("claim")
    path = _texts([claim] if isinstance(claim, str) else claim)
    if path is None:
        raise AccessError(
            f"{where}.claim",
            "write a claim's name such as groups, or a path such as [realm, roles]",
        )
    values = _texts(section.get("values"))
    if values is None:
        raise AccessError(
            f"{where}.values",
            "write a list of one value or more, such as [live-operations]: with none of them "
            "nobody would be an operator",
        )
    return Claim(path, values)


def _texts(value: Any) -> tuple[str, ...] | None:
    """A list of one text or more; None if it is something else."""
    if not isinstance(value, list) or not value:
        return None
    return tuple(value) if all(isinstance(each, str) and each for each in value) else None


def _keys(value: Any, folder: Path) -> str:
    if isinstance(value, dict):
        return _key_set(value, "edge.jwt.keys")
    if not isinstance(value, str) or not value:
        raise AccessError(
            "edge.jwt.keys",
            "write a string such as operators.jwks.json, the file with the issuer's public keys",
        )
    file = (folder / value).resolve()
    where = f"edge.jwt.keys: {file}"
    try:
        document = json.loads(file.read_text())
    except FileNotFoundError:
        raise AccessError(
            where, "does not exist: fetch the issuer's key set (its `jwks_uri`) into it"
        ) from None
    except (OSError, ValueError) as error:
        raise AccessError(where, f"is no JSON that can be read: {error}") from None
    return _key_set(document, where)


def _key_set(document: Any, where: str) -> str:
    keys = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(keys, list) or not keys:
        raise AccessError(where, 'is no key set: it looks like {"keys": [{"kty": "RSA", ...}]}')
    public = [_key(key, f"{where}: key {at + 1}") for at, key in enumerate(keys)]
    names = [key.get("kid") for key in public]
    if len(public) > 1 and (None in names or len(set(names)) != len(names)):
        raise AccessError(where, "give each of several keys a `kid` of its own: tokens name it")
    return json.dumps({"keys": public}, sort_keys=True)


def _key(key: Any, where: str) -> dict[str, str]:
    kind = key.get("kty") if isinstance(key, dict) else None
    if kind == "oct":
        raise AccessError(
            where,
            "is a shared secret: whoever checks tokens by it can make them as well. "
            "Have the issuer sign with RS256, ES256 or EdDSA, and give its public key",
        )
    if kind not in _ALGORITHMS:
        raise AccessError(where, f"kty {kind!r} is not used: it must be RSA, EC or OKP")
    if private := [name for name in _PRIVATE if name in key]:
        raise AccessError(
            where,
            f"has the private member `{private[0]}`: leave the private key with the issuer, "
            "replace it if others have seen this file, and give its public members alone",
        )
    algorithm = key.get("alg")
    if algorithm is not None and algorithm not in _ALGORITHMS[kind]:
        raise AccessError(
            where, f"alg {algorithm!r}: an {kind} key takes {', '.join(sorted(_ALGORITHMS[kind]))}"
        )
    if key.get("use", "sig") != "sig":
        raise AccessError(where, f"use {key['use']!r}: only keys for signatures belong here")
    curves = _CURVES.get(kind)
    if curves and key.get("crv") not in curves:
        raise AccessError(
            where, f"crv {key.get('crv')!r}: write one of {', '.join(sorted(curves))}"
        )
    for name in _MEMBERS[kind]:
        if name != "crv" and not _decoded(key.get(name)):
            raise AccessError(where, f"`{name}` is missing or no base64url")
    if kind == "RSA":
        bits = int.from_bytes(_decoded(key["n"]), "big").bit_length()
        if bits < _LEAST_RSA_BITS:
            raise AccessError(where, f"has {bits} bits: RSA keys need {_LEAST_RSA_BITS}")
    kept = ("kty", "kid", "alg", "use", *_MEMBERS[kind])
    for name in kept:
        if not isinstance(key.get(name, ""), str):
            raise AccessError(where, f"`{name}` is no string")
    return {name: key[name] for name in kept if name in key}


def _decoded(value: Any) -> bytes:
    """The bytes of a base64url text without padding; none if it is something else."""
    if not isinstance(value, str):
        return b""
    try:
        return base64.b64decode(value + "=" * (-len(value) % 4), altchars="-_", validate=True)
    except (binascii.Error, ValueError):
        return b""


def _mapping(value: Any, where: str, known: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise AccessError(where, "write a mapping of names to values")
    for name in value:
        if name not in known:
            raise AccessError(where, f"unknown key {name!r}; it has {', '.join(known)}")
    return value
