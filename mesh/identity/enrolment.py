"""Getting a certificate over the network: the first with a join token, the next with the last.

The one part of this package that talks to anybody.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import grpc
from cryptography import x509
from isthmus.mesh.v1 import authority_pb2, authority_pb2_grpc

from mesh.identity import authority, folder, keys, spiffe, tokens
from mesh.identity.errors import (
    AuthorityUnreachable,
    IdentityError,
    SpiffeError,
    TokenRefused,
)
from mesh.identity.spiffe import WorkloadId

AUTHORITY = "authority"
"""The workload that signs, in each region."""

_REFUSALS = frozenset(
    {
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.FAILED_PRECONDITION,
    }
)


@dataclass(frozen=True)
class Credentials:
    """A certificate with its key, ready for an identity folder."""

    spiffe_id: str
    chain_pem: bytes
    key_pem: bytes
    trust_pem: bytes
    not_after: datetime
    former_pem: bytes = b""

    def write(self, into: Path) -> None:
        """Makes this the folder's identity."""
        folder.write(
            into,
            presented(self.spiffe_id, self.chain_pem, self.trust_pem),
            self.key_pem,
            self.trust_pem,
            self.former_pem,
        )


def presented(spiffe_id: str, chain_pem: bytes, trust_pem: bytes) -> bytes:
    """The chain that the holder shows: an authority adds its own root.

    Who enrols knows the root by its hash alone, and finds it in the chain.
    """
    identity = spiffe.parse(spiffe_id)
    if isinstance(identity, WorkloadId) and identity.name == AUTHORITY:
        return chain_pem + authority.pem(x509.load_pem_x509_certificate(trust_pem))
    return chain_pem


async def enrol(
    host: str,
    port: int,
    join_token: str,
    key: keys.PrivateKey | None = None,
    within: float = 5.0,
) -> Credentials:
    """Trades a join token for a certificate, at an enrolment listener.

    It is over `key`, or a fresh one. Who tries again gives the same key: should the authority have
    answered, and the answer not have come, the token is good for that key alone.

    The token goes only to a server that holds a certificate of this region's authority, below the
    root that the token pins. Takes `within` seconds at most.

    Raises `TokenRefused` if the token or the authority is not the right one, and
    `AuthorityUnreachable` if there was no answer: then it is worth trying again.
    """
    token = tokens.parse(join_token)
    try:
        async with asyncio.timeout(within):
            chain = await _presented_by(host, port)
            root, server = _pinned(chain, token, f"{host}:{port}")
            key = key or keys.make_key()
            credentials = grpc.ssl_channel_credentials(root_certificates=authority.pem(root))
            options = [
                ("grpc.ssl_target_name_override", server.dns_name),
                ("grpc.enable_http_proxy", 0),
                ("grpc.use_local_subchannel_pool", 1),
            ]
            async with grpc.aio.secure_channel(f"{host}:{port}", credentials, options) as channel:
                answer = await authority_pb2_grpc.EnrolmentServiceStub(channel).Enrol(
                    authority_pb2.EnrolRequest(
                        join_token=join_token.strip(), signing_request=keys.signing_request(key)
                    )
                )
    except grpc.aio.AioRpcError as error:
        raise _refusal(error, f"the authority at {host}:{port}") from None
    except (OSError, TimeoutError) as error:
        raise AuthorityUnreachable(
            f"no authority answers at {host}:{port} ({error or 'no answer in time'}): "
            "is the region up?"
        ) from None
    return _credentials(answer.certificate, key)


async def renew(channel: grpc.aio.Channel, within: float = 5.0) -> Credentials:
    """A fresh certificate, over a fresh key, for whoever the channel's calls come from.

    Raises `TokenRefused` if the authority refuses, `AuthorityUnreachable` if none answers.
    """
    key = keys.make_key()
    request = authority_pb2.RenewRequest(signing_request=keys.signing_request(key))
    try:
        answer = await authority_pb2_grpc.AuthorityServiceStub(channel).Renew(
            request, timeout=within
        )
    except grpc.aio.AioRpcError as error:
        raise _refusal(error, "the authority") from None
    return _credentials(answer.certificate, key)


def _credentials(certificate: authority_pb2.Certificate, key: keys.PrivateKey) -> Credentials:
    return Credentials(
        spiffe_id=certificate.spiffe_id,
        chain_pem=certificate.chain_pem.encode(),
        key_pem=keys.key_pem(key),
        trust_pem=certificate.trust_pem.encode(),
        not_after=certificate.not_after.ToDatetime(UTC),
        former_pem=certificate.former_pem.encode(),
    )


def _refusal(error: grpc.aio.AioRpcError, who: str) -> IdentityError:
    if error.code() in _REFUSALS:
        return TokenRefused(f"{who} refused: {error.details()}")
    return AuthorityUnreachable(
        f"{who} gave no certificate: {error.code().name}, {error.details()}"
    )


async def _presented_by(host: str, port: int) -> Sequence[x509.Certificate]:
    """What the server shows, believed in no way: the pinned root is looked for in it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    _, writer = await asyncio.open_connection(host, port, ssl=context)
    try:
        connection = writer.get_extra_info("ssl_object")
        # Public from Python 3.13 on; before, only the object below has it.
        if hasattr(connection, "get_unverified_chain"):
            return [
                x509.load_der_x509_certificate(der) for der in connection.get_unverified_chain()
            ]
        chain = connection._sslobj.get_unverified_chain()
        return [x509.load_pem_x509_certificate(c.public_bytes().encode()) for c in chain]
    finally:
        writer.close()


def _pinned(
    chain: Sequence[x509.Certificate], token: tokens.JoinToken, where: str
) -> tuple[x509.Certificate, WorkloadId]:
    """The root that the token pins, and the server that its next connection must verify."""
    for certificate in chain:
        if authority.fingerprint(certificate) == token.root_hash:
            break
    else:
        raise TokenRefused(
            f"the server at {where} is not below the authority that the token pins: the token was "
            "not sent. Ask the operator of this mesh for a new token"
        )
    names = chain[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    for uri in names.get_values_for_type(x509.UniformResourceIdentifier):
        try:
            server = spiffe.parse(uri)
        except SpiffeError:
            continue
        if (
            isinstance(server, WorkloadId)
            and server.name == AUTHORITY
            and server.region == token.region
        ):
            return certificate, server
    raise TokenRefused(
        f"the server at {where} is not the authority of region {token.region}: the token was not "
        "sent. Use that region's enrolment address"
    )
