"""The certificate of an end principal outside of the mesh: a device's or an operator's program.

It makes its own key, trades a join token for its first certificate, and renews it through an edge.
Workloads need none of this: their sidecars' agents hold their keys.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import grpc
from cryptography import x509
from isthmus.mesh.v1.authority_pb2 import Certificate, EnrolRequest, RenewRequest
from isthmus.mesh.v1.authority_pb2_grpc import AuthorityServiceStub, EnrolmentServiceStub

from mesh.identity import authority, folder, keys, spiffe, tokens
from mesh.identity.errors import IdentityError, IdentityFolderError
from mesh.identity.folder import Held

__all__ = ["Held", "IdentityError", "enrol", "held", "renew"]

_TIMEOUT_S = 5.0


class EnrolmentFailed(IdentityError):
    """No certificate was given; the message says why and what to do."""


def held(path: Path, now: datetime) -> Held | None:
    """The identity in a folder, None if there is none or it has expired.

    Raises `IdentityFolderError` if the folder is damaged.
    """
    if not (path / folder.CERTIFICATE).exists():
        return None
    found = folder.read(path)
    return found if found.not_after > now else None


async def enrol(path: Path, address: str, join_token: str, trust_pem: bytes | None = None) -> Held:
    """Trades a join token for a certificate, and keeps both key and certificate in `path`.

    `address` is host:port of the enrolment listener of the token's region. Its server is believed
    only if its certificate leads to the root whose hash the token pins; that root is one of
    `trust_pem`, or is sent by the server. Raises `IdentityError`.
    """
    token = tokens.parse(join_token)
    presented = await asyncio.to_thread(_presented, address)
    root = _pinned(token.root_hash, [*presented, *_certificates(trust_pem)])
    name = _authority_name(presented[0], token.region)
    key = keys.make_key()
    channel = grpc.aio.secure_channel(
        address,
        # The handshake of this channel is what proves the server: it trusts the pinned root alone.
        grpc.ssl_channel_credentials(root_certificates=authority.pem(root)),
        options=[("grpc.ssl_target_name_override", name), ("grpc.enable_retries", 0)],
    )
    async with channel:
        try:
            response = await EnrolmentServiceStub(channel).Enrol(
                EnrolRequest(join_token=join_token, signing_request=keys.signing_request(key)),
                timeout=_TIMEOUT_S,
            )
        except grpc.aio.AioRpcError as error:
            raise EnrolmentFailed(
                f"enrolment at {address} failed: {error.code().name}: {error.details()}"
            ) from None
    return _keep(path, response.certificate, key)


async def renew(path: Path, channel: grpc.aio.Channel) -> Held:
    """Gets a fresh certificate, for a new key, through an edge, and keeps both in `path`.

    Raises `grpc.aio.AioRpcError`, or `IdentityError` if the answer is not for this identity.
    """
    before = folder.read(path)
    key = keys.make_key()
    response = await AuthorityServiceStub(channel).Renew(
        RenewRequest(signing_request=keys.signing_request(key)), timeout=_TIMEOUT_S
    )
    if response.certificate.spiffe_id != before.spiffe_id:
        raise IdentityFolderError(
            f"the authority renewed {response.certificate.spiffe_id}, not {before.spiffe_id}"
        )
    return _keep(path, response.certificate, key)


def _keep(path: Path, certificate: Certificate, key: keys.PrivateKey) -> Held:
    folder.write(
        path, certificate.chain_pem.encode(), keys.key_pem(key), certificate.trust_pem.encode()
    )
    return folder.read(path)


def _presented(address: str) -> list[x509.Certificate]:
    """What the server shows, unverified: to find the pinned root in it, and nothing else."""
    host, _, port = address.rpartition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        with (
            socket.create_connection((host, int(port)), timeout=_TIMEOUT_S) as plain,
            context.wrap_socket(plain) as secured,
        ):
            # Public as SSLSocket.get_unverified_chain from Python 3.13 on.
            chain = secured._sslobj.get_unverified_chain()  # type: ignore[attr-defined]  # private
    except OSError as error:
        raise EnrolmentFailed(f"no enrolment listener answers at {address}: {error}") from None
    return [x509.load_pem_x509_certificate(c.public_bytes().encode()) for c in chain]


def _pinned(root_hash: str, candidates: Sequence[x509.Certificate]) -> x509.Certificate:
    for certificate in candidates:
        if authority.fingerprint(certificate) == root_hash:
            return certificate
    raise EnrolmentFailed(
        "the server does not show the root that the join token pins: it is another mesh's, or "
        "somebody stands in between"
    )


def _authority_name(leaf: x509.Certificate, region: str) -> str:
    """The DNS name that the channel must verify."""
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        identity = spiffe.parse(uris[0])
    except (x509.ExtensionNotFound, IndexError):
        raise EnrolmentFailed("the server's certificate names no SPIFFE ID") from None
    wanted = spiffe.WorkloadId(identity.trust_domain, region, "authority")
    if identity != wanted:
        raise EnrolmentFailed(f"the server is {identity.uri}, not {wanted.uri}")
    return wanted.dns_name


def _certificates(pem: bytes | None) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(pem) if pem else []
