"""Whom an edge let in, as the edge signs it: from hop to hop anyone verifies it by the roots.

A statement is good for whoever holds it, within the mesh, for two minutes: long enough for the
calls that one call causes, and no longer. It says for whom a call is made, never that its caller
may make it: that is for the contract, which asks who the caller itself is.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from google.protobuf.message import DecodeError
from isthmus.mesh.v1 import principal_pb2 as pb

from mesh.identity import folder, spiffe, statements
from mesh.identity.errors import SpiffeError, StatementRefused
from mesh.identity.spiffe import DeviceId, OperatorId, WorkloadId
from mesh.place import EDGE

METADATA_KEY = "isthmus-principal-bin"
LIFETIME = timedelta(minutes=2)
SKEW = timedelta(minutes=1)
"""By how much the clocks of two hosts may differ."""

_PURPOSE = b"isthmus end principal 1"


@dataclass(frozen=True)
class EndPrincipal:
    """An operator or a device, the edge that let it in, and until when `value` proves that."""

    identity: OperatorId | DeviceId
    edge: WorkloadId
    until: datetime
    value: bytes


def state(held: folder.Held, identity: OperatorId | DeviceId, now: datetime) -> bytes:
    """The metadata's value for a principal, signed by an edge's identity."""
    statement = pb.EndPrincipalStatement(
        spiffe_id=identity.uri, since_ms=_ms(now), until_ms=_ms(now + LIFETIME)
    ).SerializeToString(deterministic=True)
    signed = statements.sign(held, _PURPOSE, statement)
    return pb.EndPrincipal(
        statement=statement, signature=signed.signature, certificates=signed.certificates
    ).SerializeToString(deterministic=True)


def verify(value: bytes, trust_domain: str, roots_pem: bytes, now: datetime) -> EndPrincipal:
    """Whom a value names. Raises `StatementRefused` unless an edge of the mesh let it in lately."""
    try:
        message = pb.EndPrincipal.FromString(value)
        said = pb.EndPrincipalStatement.FromString(message.statement)
        since, until = _time(said.since_ms), _time(said.until_ms)
        identity = spiffe.parse(said.spiffe_id)
    except (DecodeError, ValueError, OverflowError, OSError, SpiffeError) as error:
        raise StatementRefused(f"the end principal cannot be read: {error}") from None
    signed = statements.Signed(message.signature, tuple(message.certificates))
    # Its certificate must be valid still, as a peer's must: what it opens is opened now.
    edge = statements.verify(signed, _PURPOSE, message.statement, now, roots_pem)
    if not isinstance(edge, WorkloadId) or edge.name != EDGE or edge.trust_domain != trust_domain:
        raise StatementRefused(f"{edge.uri} is no edge: only edges say who came from outside")
    if isinstance(identity, WorkloadId) or identity.trust_domain != trust_domain:
        raise StatementRefused(f"{identity.uri} is no operator or device of {trust_domain}")
    if not timedelta(0) < until - since <= LIFETIME or not since - SKEW <= now < until + SKEW:
        raise StatementRefused(
            f"{edge.uri} let {identity.uri} in from {since:%T} to {until:%T} UTC"
        )
    return EndPrincipal(identity, edge, until, value)


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _time(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)
