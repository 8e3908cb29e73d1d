"""Mutual TLS: who a sidecar is, and whom it accepts.

The leaf and the roots come by SDS from files that hold them whole, which `credentials` puts in
place by a rename: an Envoy takes up new ones without a restart, and never one generation's
certificate with another one's key. What a secret names by path Envoy watches as well, which takes
further inotify instances, of which Linux gives a user 128 in all; an Envoy that gets none aborts.
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path

from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.extensions.transport_sockets.tls import v3 as tls
from envoy_data_plane.envoy.service.discovery import v3 as discovery
from envoy_data_plane.envoy.type.matcher import v3 as matcher

from mesh.envoy.text import Packed, text
from mesh.identity.folder import Held
from mesh.identity.spiffe import WorkloadId

LEAF = "leaf"
ROOTS = "roots"


class ClientCertificate(Enum):
    """What a listener asks of its clients. One that is shown is verified in either case."""

    REQUIRED = "required"
    OPTIONAL = "optional"
    IGNORED = "ignored"


_TLS_1_3 = tls.TlsParametersTlsProtocol.TLSv1_3


def secret_file(name: str) -> str:
    """The name of the file that holds an SDS secret."""
    return f"{name}.sds.json"


def secrets(held: Held) -> dict[str, str]:
    """The SDS files of an identity, by file name. They hold its key."""
    leaf = tls.Secret(
        name=LEAF,
        tls_certificate=tls.TlsCertificate(
            certificate_chain=_inline(held.chain_pem), private_key=_inline(held.key_pem)
        ),
    )
    roots = tls.Secret(
        name=ROOTS,
        validation_context=tls.CertificateValidationContext(trusted_ca=_inline(held.trust_pem)),
    )
    return {secret_file(each.name): _resource(each) for each in (leaf, roots)}


def downstream(sds: Path, client: ClientCertificate) -> core.TransportSocket:
    """TLS of a listener that answers HTTP/2, and HTTP/1.1 for metrics."""
    context = tls.DownstreamTlsContext(
        common_tls_context=_common(
            sds, None, ["h2", "http/1.1"], trust=client is not ClientCertificate.IGNORED
        ),
        require_client_certificate=client is ClientCertificate.REQUIRED,
        # A resumed session shows no certificate again: it would outlive the one it began with.
        disable_stateless_session_resumption=True,
        disable_stateful_session_resumption=True,
    )
    return core.TransportSocket(name="envoy.transport_sockets.tls", typed_config=Packed(context))


def upstream(sds: Path, peer: WorkloadId) -> core.TransportSocket:
    """TLS towards exactly one workload of one region, verified by its SPIFFE ID."""
    context = tls.UpstreamTlsContext(
        common_tls_context=_common(sds, peer, ["h2"], trust=True), sni=peer.dns_name
    )
    return core.TransportSocket(name="envoy.transport_sockets.tls", typed_config=Packed(context))


def _common(
    sds: Path, peer: WorkloadId | None, alpn: list[str], *, trust: bool
) -> tls.CommonTlsContext:
    context = tls.CommonTlsContext(
        # The maximum too: as a client, Envoy's own is TLS 1.2.
        tls_params=tls.TlsParameters(
            tls_minimum_protocol_version=_TLS_1_3, tls_maximum_protocol_version=_TLS_1_3
        ),
        alpn_protocols=alpn,
        tls_certificate_sds_secret_configs=[_sds(LEAF, sds)],
    )
    if not trust:
        return context
    expected = (
        []
        if peer is None
        else [
            tls.SubjectAltNameMatcher(
                san_type=tls.SubjectAltNameMatcherSanType.URI,
                matcher=matcher.StringMatcher(exact=peer.uri),
            )
        ]
    )
    context.combined_validation_context = tls.CommonTlsContextCombinedCertificateValidationContext(
        default_validation_context=tls.CertificateValidationContext(
            match_typed_subject_alt_names=expected
        ),
        validation_context_sds_secret_config=_sds(ROOTS, sds),
    )
    return context


def _sds(name: str, sds: Path) -> tls.SdsSecretConfig:
    return tls.SdsSecretConfig(
        name=name,
        sds_config=core.ConfigSource(
            path_config_source=core.PathConfigSource(path=str(sds / secret_file(name))),
            resource_api_version=core.ApiVersion.V3,
        ),
    )


def _inline(pem: bytes) -> core.DataSource:
    return core.DataSource(inline_string=pem.decode())


def _resource(secret: tls.Secret) -> str:
    return text(discovery.DiscoveryResponse(resources=[Packed(secret)]))
