"""Envoys tuned by hand that do mutual TLS and nothing else: what a call must cost at the least."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mesh.agent.process import EnvoyProcess
from mesh.identity.enrolment import Credentials
from mesh.topology import Address

_EXTENSIONS = "type.googleapis.com/envoy.extensions."
_MOST_STREAMS = 1024


async def calling(folder: Path, held: Credentials, socket: Path, server: Address) -> EnvoyProcess:
    """Takes calls in the clear on a socket, and sends them to an Envoy over mutual TLS."""
    tls = _tls("UpstreamTlsContext", held, folder) | {"sni": "minimal"}
    return await _start(folder, {"pipe": {"path": str(socket)}}, _address(server), upstream=tls)


async def called(folder: Path, held: Credentials, server: Address, socket: Path) -> EnvoyProcess:
    """Takes calls over mutual TLS, and sends them to an application's socket in the clear."""
    tls = _tls("DownstreamTlsContext", held, folder) | {"require_client_certificate": True}
    return await _start(folder, _address(server), {"pipe": {"path": str(socket)}}, downstream=tls)


def _address(address: Address) -> dict[str, Any]:
    return {"socket_address": {"address": address.host, "port_value": address.port}}


def _tls(kind: str, held: Credentials, folder: Path) -> dict[str, Any]:
    folder.mkdir(parents=True)
    files = {"chain.pem": held.chain_pem, "key.pem": held.key_pem, "trust.pem": held.trust_pem}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return {
        "@type": f"{_EXTENSIONS}transport_sockets.tls.v3.{kind}",
        "common_tls_context": {
            "alpn_protocols": ["h2"],
            "tls_params": dict.fromkeys(
                ("tls_minimum_protocol_version", "tls_maximum_protocol_version"), "TLSv1_3"
            ),
            "tls_certificates": [
                {
                    "certificate_chain": {"filename": str(folder / "chain.pem")},
                    "private_key": {"filename": str(folder / "key.pem")},
                }
            ],
            "validation_context": {"trusted_ca": {"filename": str(folder / "trust.pem")}},
        },
    }


async def _start(
    folder: Path,
    listens: dict[str, Any],
    sends: dict[str, Any],
    *,
    downstream: dict[str, Any] | None = None,
    upstream: dict[str, Any] | None = None,
) -> EnvoyProcess:
    bootstrap = folder / "envoy.json"
    bootstrap.write_text(
        json.dumps(
            {
                "static_resources": {
                    "listeners": [_listener(listens, downstream)],
                    "clusters": [_cluster(sends, upstream)],
                }
            }
        )
    )
    return await EnvoyProcess.start(
        bootstrap, folder / "envoy.log", folder, ["--disable-hot-restart"]
    )


def _listener(address: dict[str, Any], tls: dict[str, Any] | None) -> dict[str, Any]:
    manager = {
        "@type": f"{_EXTENSIONS}filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "codec_type": "HTTP2",
        "http2_protocol_options": {"max_concurrent_streams": _MOST_STREAMS},
        "generate_request_id": False,
        "stream_idle_timeout": "0s",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [
                        {"match": {"prefix": "/"}, "route": {"cluster": "out", "timeout": "0s"}}
                    ],
                }
            ]
        },
        "http_filters": [
            {
                "name": "router",
                "typed_config": {
                    "@type": f"{_EXTENSIONS}filters.http.router.v3.Router",
                    "dynamic_stats": False,
                    "suppress_envoy_headers": True,
                },
            }
        ],
    }
    chain: dict[str, Any] = {"filters": [{"name": "http", "typed_config": manager}]}
    return {"name": "in", "address": address, "filter_chains": [chain | _socket(tls)]}


def _cluster(address: dict[str, Any], tls: dict[str, Any] | None) -> dict[str, Any]:
    http2 = {
        "@type": f"{_EXTENSIONS}upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    return {
        "name": "out",
        "type": "STATIC",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2
        },
        "load_assignment": {
            "cluster_name": "out",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    } | _socket(tls)


def _socket(tls: dict[str, Any] | None) -> dict[str, Any]:
    return {} if tls is None else {"transport_socket": {"name": "tls", "typed_config": tls}}
