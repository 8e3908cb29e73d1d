"""The certificate of an end principal outside of the mesh: a device's or an operator's program.

It makes its own key, trades a join token for its first certificate, and renews it through an edge.
Workloads need none of this: their sidecars' agents hold their keys.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import grpc

from mesh.identity import enrolment, folder, tokens
from mesh.identity.authority import fingerprints
from mesh.identity.errors import AuthorityUnreachable, IdentityError, TokenRefused
from mesh.identity.folder import Held
from mesh.identity.keys import PrivateKey, make_key

__all__ = [
    "AuthorityUnreachable",
    "Held",
    "IdentityError",
    "PrivateKey",
    "TokenRefused",
    "enrol",
    "held",
    "make_key",
    "pins_another_root",
    "renew",
]


def held(path: Path, now: datetime) -> Held | None:
    """The identity in a folder, None if there is none or it has expired.

    Raises `IdentityError` if the folder is damaged.
    """
    if not (path / folder.CERTIFICATE).exists():
        return None
    found = folder.read(path)
    return found if found.not_after > now else None


def pins_another_root(join_token: str, found: Held) -> bool:
    """Whether a token is of an authority that the identity at hand does not know.

    Then the mesh has another root by now, and no edge takes that identity.
    """
    try:
        return tokens.parse(join_token).root_hash not in fingerprints(found.trust_pem)
    except (TokenRefused, ValueError):
        return False


async def enrol(path: Path, address: str, join_token: str, key: PrivateKey | None = None) -> Held:
    """Trades a join token for a certificate, and keeps both key and certificate in `path`.

    `key` is a fresh one unless given; a token whose answer was lost is still good for its key.
    `address` is host:port of the enrolment listener of the token's region. Raises `TokenRefused`,
    and `AuthorityUnreachable` if it is worth trying again.
    """
    host, _, port = address.rpartition(":")
    (await enrolment.enrol(host, int(port), join_token.strip(), key)).write(path)
    return folder.read(path)


async def renew(path: Path, channel: grpc.aio.Channel) -> Held:
    """Gets a fresh certificate, for a new key, through an edge, and keeps both in `path`.

    Raises `TokenRefused`, `AuthorityUnreachable`, and `IdentityError` if the answer is not for the
    identity at hand.
    """
    before = folder.read(path)
    fresh = await enrolment.renew(channel)
    if fresh.spiffe_id != before.spiffe_id:
        raise IdentityError(f"the authority renewed {fresh.spiffe_id}, not {before.spiffe_id}")
    fresh.write(path)
    return folder.read(path)
