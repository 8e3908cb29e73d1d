"""Mutual TLS: who a sidecar is, and whom it accepts.

The leaf comes from files by SDS. The folder is watched both by the subscription and by the secret
itself, since only the second one notices that `..data` was swapped. The roots are read at the
start: each watch takes an inotify instance, of which Linux gives a user 128 in all, and an Envoy
that gets none aborts.
"""

from __future__ import annotations

from pathlib import Path

from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.extensions.transport_sockets.tls import v3 as tls
from envoy_data_plane.envoy.service.discovery import v3 as discovery
from envoy_data_plane.envoy.type.matcher import v3 as matcher

from mesh.envoy.text import Packed, text
from mesh.identity import folder
from mesh.identity.spiffe import WorkloadId

LEAF = "leaf"
_TLS_1_3 = tls.TlsParametersTlsProtocol.TLSv1_3


def secret_file(name: str) -> str:
    """The name of the file that holds an SDS secret."""
    return f"{name}.sds.json"


def secrets(identity: Path) -> dict[str, str]:
    """The SDS files, by file name: they only point into the identity folder."""
    watched = core.WatchedDirectory(path=str(identity))
    leaf = tls.Secret(
        name=LEAF,
        tls_certificate=tls.TlsCertificate(
            certificate_chain=_file(identity / folder.CERTIFICATE),
            private_key=_file(identity / folder.KEY),
            watched_directory=watched,
        ),
    )
    return {secret_file(LEAF): _resource(leaf)}


def downstream(sds: Path, identity: Path, *, client_certificate: bool) -> core.TransportSocket:
    """TLS of a listener that answers HTTP/2, and HTTP/1.1 for metrics."""
    context = tls.DownstreamTlsContext(
        common_tls_context=_common(
            sds, identity, None, ["h2", "http/1.1"], trust=client_certificate
        ),
        require_client_certificate=client_certificate,
    )
    return core.TransportSocket(name="envoy.transport_sockets.tls", typed_config=Packed(context))


def upstream(sds: Path, identity: Path, peer: WorkloadId) -> core.TransportSocket:
    """TLS towards exactly one workload of one region, verified by its SPIFFE ID."""
    context = tls.UpstreamTlsContext(
        common_tls_context=_common(sds, identity, peer, ["h2"], trust=True), sni=peer.dns_name
    )
    return core.TransportSocket(name="envoy.transport_sockets.tls", typed_config=Packed(context))


def _common(
    sds: Path, identity: Path, peer: WorkloadId | None, alpn: list[str], *, trust: bool
) -> tls.CommonTlsContext:
    context = tls.CommonTlsContext(
        # The maximum too: as a client, Envoy's own is TLS 1.2.
        tls_params=tls.TlsParameters(
            tls_minimum_protocol_version=_TLS_1_3, tls_maximum_protocol_version=_TLS_1_3
        ),
        alpn_protocols=alpn,
        tls_certificate_sds_secret_configs=[_sds(LEAF, sds, identity)],
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
    context.validation_context = tls.CertificateValidationContext(
        trusted_ca=_file(identity / folder.TRUST), match_typed_subject_alt_names=expected
    )
    return context


def _sds(name: str, sds: Path, identity: Path) -> tls.SdsSecretConfig:
    return tls.SdsSecretConfig(
        name=name,
        sds_config=core.ConfigSource(
            path_config_source=core.PathConfigSource(
                path=str(sds / secret_file(name)),
                watched_directory=core.WatchedDirectory(path=str(identity)),
            ),
            resource_api_version=core.ApiVersion.V3,
        ),
    )


def _file(path: Path) -> core.DataSource:
    return core.DataSource(filename=str(path))


def _resource(secret: tls.Secret) -> str:
    return text(discovery.DiscoveryResponse(resources=[Packed(secret)]))
