"""The methods of the authority: see isthmus/mesh/v1/authority.proto."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import grpc
import structlog
from isthmus.mesh.v1 import authority_pb2 as pb
from isthmus.mesh.v1 import authority_pb2_grpc as rpc

from mesh.identity import authority, spiffe
from mesh.identity.authority import Issuer, Leaf
from mesh.identity.errors import IdentityError, IssuerExpired, SigningRequestRefused, TokenRefused
from mesh.identity.spiffe import DeviceId, Identity, WorkloadId
from mesh.identity.tokens import TokenStore
from mesh.place import EDGE
from mesh.runtime import (
    FailedPrecondition,
    InvalidArgument,
    PermissionDenied,
    Unauthenticated,
    caller,
)
from mesh.topology import Topology

_log = structlog.get_logger(__name__)
_TOKEN_LIFETIME = timedelta(hours=1)
_Context = grpc.aio.ServicerContext[Any, Any]


class Signer:
    """Signs leaves in one region, and names who may be reached where."""

    def __init__(
        self,
        issuer: Callable[[], Issuer],
        topology: Topology,
        region: str,
        now: Callable[[], datetime],
        revoked: Callable[[str], bool],
    ) -> None:
        """`issuer` is who signs now; `revoked` says of a SPIFFE ID that it gets nothing more."""
        self._issuer = issuer
        self._topology = topology
        self._region = region
        self._revoked = revoked
        self.now = now

    def check(self, signing_request: bytes) -> bytes:
        """The hash of the key that would be signed. Raises `InvalidArgument` if none would."""
        try:
            return authority.check(signing_request)
        except SigningRequestRefused as error:
            raise _bad_request(error) from None

    def sign(
        self, signing_request: bytes, subject: Identity, enrolled_ms: int | None
    ) -> pb.Certificate:
        """A certificate for `subject`, who enrolled at `enrolled_ms` (None: it is not said).

        Raises `InvalidArgument`, `FailedPrecondition`, or `PermissionDenied` if it was revoked.
        """
        if self._revoked(subject.uri):
            _log.warning("asked to sign for one that was revoked", subject=subject.uri)
            raise PermissionDenied(
                f"{subject.uri} was revoked: mesh.yaml has it under `revoked`", reason="REVOKED"
            )
        try:
            leaf = authority.sign(
                self._issuer(),
                signing_request,
                subject,
                self.now(),
                self._hosts(subject),
                enrolled_ms,
            )
        except SigningRequestRefused as error:
            raise _bad_request(error) from None
        except IssuerExpired as error:
            raise FailedPrecondition(str(error), reason="ISSUER_EXPIRED") from None
        _log.info("signed", subject=subject.uri, not_after=leaf.not_after.isoformat())
        return _certificate(leaf)

    def _hosts(self, subject: Identity) -> tuple[str, ...]:
        """Operators' tools reach an edge by its address; all else goes by SPIFFE ID."""
        if isinstance(subject, WorkloadId) and subject.name == EDGE:
            return ("localhost", self._topology.region(subject.region).host)
        return ()


class EnrolmentService(rpc.EnrolmentServiceServicer):
    """First certificates, for join tokens."""

    def __init__(self, signer: Signer, tokens: TokenStore, trust_domain: str) -> None:
        self._signer = signer
        self._tokens = tokens
        self._trust_domain = trust_domain

    async def Enrol(self, request: pb.EnrolRequest, context: _Context) -> pb.EnrolResponse:
        """Trades a join token and a signing request for a certificate.

        Whoever lost the answer asks again, with the same key.
        """
        # Before the token is used up: a mistake in the request is no reason to need another.
        key_hash = self._signer.check(request.signing_request)
        try:
            redeemed = self._tokens.redeem(
                request.join_token, self._trust_domain, self._signer.now(), key_hash
            )
        except TokenRefused as error:
            raise Unauthenticated(str(error), reason="TOKEN_REFUSED") from None
        device = isinstance(redeemed.subject, DeviceId)
        enrolled_ms = _milliseconds(redeemed.since) if device else None
        certificate = self._signer.sign(request.signing_request, redeemed.subject, enrolled_ms)
        return pb.EnrolResponse(certificate=certificate)


class AuthorityService(rpc.AuthorityServiceServicer):
    """Renewals, and join tokens for devices."""

    def __init__(self, signer: Signer, tokens: TokenStore, topology: Topology, region: str) -> None:
        self._signer = signer
        self._tokens = tokens
        self._topology = topology
        self._region = region

    async def Renew(self, request: pb.RenewRequest, context: _Context) -> pb.RenewResponse:
        """A fresh certificate for the caller's own identity."""
        principal = caller()
        if principal.by_token:
            # A certificate can be renewed for ever: it would make a token's end meaningless.
            raise PermissionDenied(
                f"{principal} came by a token: only who holds a certificate renews it",
                reason="NO_CERTIFICATE",
            )
        try:
            subject = spiffe.parse(principal.spiffe_id)
        except IdentityError as error:
            raise PermissionDenied(str(error), reason="NO_IDENTITY") from None
        # Renewed ever so often, it remains the certificate of that one enrolment.
        certificate = self._signer.sign(request.signing_request, subject, principal.enrolled_ms)
        return pb.RenewResponse(certificate=certificate)

    async def CreateJoinToken(
        self, request: pb.CreateJoinTokenRequest, context: _Context
    ) -> pb.CreateJoinTokenResponse:
        """A join token for a device, valid in this region."""
        now = self._signer.now()
        lifetime = (
            request.lifetime.ToTimedelta() if request.HasField("lifetime") else _TOKEN_LIFETIME
        )
        subject = DeviceId(self._topology.trust_domain, request.device_id)
        token = self._tokens.issue(subject, now, now + lifetime)
        _log.info("join token issued", subject=subject.uri, by=str(caller()))
        response = pb.CreateJoinTokenResponse(
            join_token=str(token), enrolment_address=str(self._topology.enrolment(self._region))
        )
        response.expires.FromDatetime(now + lifetime)
        return response


def _milliseconds(time: datetime) -> int:
    return int(time.timestamp() * 1000)


def _certificate(leaf: Leaf) -> pb.Certificate:
    certificate = pb.Certificate(
        chain_pem=leaf.chain_pem.decode(),
        trust_pem=leaf.trust_pem.decode(),
        spiffe_id=leaf.identity.uri,
        former_pem=leaf.former_pem.decode(),
    )
    certificate.not_after.FromDatetime(leaf.not_after)
    return certificate


def _bad_request(error: SigningRequestRefused) -> InvalidArgument:
    return InvalidArgument.fields({"signing_request": str(error)})
