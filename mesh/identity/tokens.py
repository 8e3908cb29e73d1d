"""Join tokens: how a workload or a device gets its first certificate.

    isthmus1.<region>.<kind>.<name>.<SHA-256 of the root>.<secret>

`kind` is `workload` or `device`; a workload's token is for the region that issued it. The token
tells its holder which authority to trust before there is any other reason to, and the authority
whom it signs for. The store keeps a hash of the secret alone, and a token is used in the same
transaction that finds it unused, on disk before anything is signed. It is used for one key: whoever
got no answer asks again with that key, and nobody else's key gets a certificate by it.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from mesh.identity import spiffe
from mesh.identity.errors import SpiffeError, TokenRefused
from mesh.identity.spiffe import DeviceId, Identity, WorkloadId

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PREFIX = "isthmus1"
_SECRET_BYTES = 32
_HASH = re.compile(r"[0-9a-f]{64}")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS tokens (
  secret_hash BLOB PRIMARY KEY,
  subject TEXT NOT NULL,
  expires_us INTEGER NOT NULL,
  used_us INTEGER,
  key_hash BLOB
) WITHOUT ROWID
"""


@dataclass(frozen=True)
class JoinToken:
    """A token, taken apart."""

    region: str
    kind: str
    name: str
    root_hash: str
    secret: str

    def __str__(self) -> str:
        return ".".join((_PREFIX, self.region, self.kind, self.name, self.root_hash, self.secret))

    def __repr__(self) -> str:
        return f"JoinToken({self.region}, {self.kind} {self.name})"

    def identity(self, trust_domain: str) -> Identity:
        """Whom the token stands for."""
        if self.kind == "device":
            return DeviceId(trust_domain, self.name)
        return WorkloadId(trust_domain, self.region, self.name)


def parse(text: str) -> JoinToken:
    """A token's parts. Raises `TokenRefused` if it is none; the message never repeats it."""
    parts = text.strip().split(".")
    if len(parts) != 6 or parts[0] != _PREFIX or parts[2] not in ("workload", "device"):
        raise TokenRefused(f"not a join token: it begins with {_PREFIX} and has six parts")
    token = JoinToken(*parts[1:])
    try:
        token.identity("check")
        spiffe.WorkloadId("check", token.region, "check")
    except SpiffeError:
        raise TokenRefused("not a join token: it names no valid subject") from None
    if not _HASH.fullmatch(token.root_hash) or not token.secret:
        raise TokenRefused("not a join token: it pins no authority")
    return token


@dataclass(frozen=True)
class Redeemed:
    """What a token was good for: `since` is when it was used first."""

    subject: Identity
    since: datetime


class TokenStore:
    """The tokens of one region, in SQLite.

    Safe to open from several processes: a token is still used for one key.
    """

    def __init__(self, path: Path, region: str, root_hash: Callable[[], str]) -> None:
        """`root_hash` gives that of the root below which the region's authority shows itself."""
        self._region = region
        self.root_hash = root_hash
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)
        self._database = sqlite3.connect(path, isolation_level=None, timeout=5)
        # EXTRA also syncs the folder after a commit: a used token stays used after a power cut.
        self._database.execute("PRAGMA synchronous = EXTRA")
        self._database.execute(_SCHEMA)
        self._add_key_hash()

    def close(self) -> None:
        """Closes the file."""
        self._database.close()

    def issue(self, subject: Identity, now: datetime, expires: datetime) -> JoinToken:
        """A new token for a workload of this region or a device; on disk before it returns.

        Raises `TokenRefused` for a workload of another region and for operators.
        """
        match subject:
            case WorkloadId(region=self._region, name=name):
                kind = "workload"
            case DeviceId(device_id=name):
                kind = "device"
            case _:
                raise TokenRefused(
                    f"{subject.uri} does not join in region {self._region}: only its workloads "
                    "and devices do"
                )
        token = JoinToken(
            self._region, kind, name, self.root_hash(), secrets.token_urlsafe(_SECRET_BYTES)
        )
        with closing(self._database.cursor()) as cursor:
            # What has expired is refused like what never was.
            cursor.execute("DELETE FROM tokens WHERE expires_us <= ?", (_us(now),))
            cursor.execute(
                "INSERT INTO tokens (secret_hash, subject, expires_us) VALUES (?, ?, ?)",
                (_hashed(token), f"{kind}/{name}", _us(expires)),
            )
        return token

    def redeem(self, text: str, trust_domain: str, now: datetime, key_hash: bytes) -> Redeemed:
        """Uses a token for a key; it is used, on disk, before this returns.

        May be repeated with the same key until the token expires. Raises `TokenRefused` if it is
        unknown, used for another key, expired, or of another region or authority.
        """
        token = parse(text)
        if token.region != self._region:
            raise TokenRefused(
                f"the token is of region {token.region}: it is valid there only, "
                f"not in {self._region}"
            )
        if token.root_hash != self.root_hash():
            raise TokenRefused("the token is of another authority: ask this one for a new token")
        used = self._database.execute(
            "UPDATE tokens SET used_us = coalesce(used_us, ?1), key_hash = ?4 "
            "WHERE secret_hash = ?2 AND subject = ?3 AND expires_us > ?1 "
            "AND (used_us IS NULL OR key_hash = ?4) RETURNING used_us",
            (_us(now), _hashed(token), f"{token.kind}/{token.name}", key_hash),
        ).fetchall()
        if not used:
            raise TokenRefused("the token is unknown, used or expired: ask for a new one")
        since = _EPOCH + timedelta(microseconds=used[0][0])
        return Redeemed(token.identity(trust_domain), since)

    def _add_key_hash(self) -> None:
        """Stores of a former version lack the column; of what they used nobody knows the key."""
        columns = {row[1] for row in self._database.execute("PRAGMA table_info(tokens)")}
        if "key_hash" in columns:
            return
        try:
            self._database.execute("ALTER TABLE tokens ADD COLUMN key_hash BLOB")
        except sqlite3.OperationalError as error:
            if "duplicate column" not in str(error):  # another process was faster
                raise


def _hashed(token: JoinToken) -> bytes:
    # The secret is 256 random bits: a plain hash of it cannot be searched.
    return hashlib.sha256(token.secret.encode()).digest()


def _us(time: datetime) -> int:
    return (time - _EPOCH) // timedelta(microseconds=1)
