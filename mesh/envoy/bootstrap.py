"""Contract × Topology × Place -> the files that one Envoy starts from.

Pure: the same inputs give the same bytes. In the static form everything is in them, so an Envoy
starts and goes on without anything else of the mesh: the control plane's own sidecar and the
authority's do. In the other form they name the control plane, and all else is discovered.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from envoy_data_plane.envoy.config.bootstrap import v3 as bootstrap
from envoy_data_plane.envoy.config.cluster import v3 as cluster
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.listener import v3 as listener
from envoy_data_plane.envoy.config.overload import v3 as overload
from envoy_data_plane.envoy.extensions.resource_monitors.downstream_connections import (
    v3 as monitors,
)

from mesh.contracts.model import Contract
from mesh.envoy import clusters, tls
from mesh.envoy.discovery import FOR_EVER, from_ads, relative
from mesh.envoy.errors import EnvoyConfigError
from mesh.envoy.parts import as_they_are, folder, parts
from mesh.envoy.text import Packed, text
from mesh.identity.spiffe import WorkloadId
from mesh.place import Place
from mesh.topology import Address, Topology

BOOTSTRAP = "bootstrap.json"
MOST_CONNECTIONS = 8192
"""How many connections an Envoy takes from outside: who holds a certificate cannot use it up."""

_LONGEST_SOCKET_PATH = 107
_FIRST_RECONNECT = timedelta(milliseconds=200)
_LAST_RECONNECT = timedelta(seconds=5)


@dataclass(frozen=True)
class Configuration:
    """One Envoy's files: `bootstrap.json`, and the SDS files it names, by file name.

    They belong in `folder(place)`: the bootstrap names the others by absolute path.
    """

    files: dict[str, str]

    @property
    def bootstrap(self) -> str:
        """The text of the bootstrap."""
        return self.files[BOOTSTRAP]

    def write(self, into: Path) -> Path:
        """Writes all files and returns the bootstrap's path."""
        into.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, content in self.files.items():
            (into / name).write_text(content)
        return into / BOOTSTRAP


def compile_for(contract: Contract, topology: Topology, place: Place) -> Configuration:
    """The configuration of whatever stands at `place`: a workload's sidecar or an edge.

    Raises `EnvoyConfigError` if the topology has no such workload or a socket's path is too long.
    """
    _check_sockets(place)
    found = list(parts(contract, topology, place, as_they_are))
    resource = _bootstrap(place)
    resource.static_resources = bootstrap.BootstrapStaticResources(
        listeners=[each for each in found if isinstance(each, listener.Listener)],
        clusters=[each for each in found if isinstance(each, cluster.Cluster)],
    )
    return Configuration({BOOTSTRAP: text(resource), **tls.secrets(place.identity)})


@dataclass(frozen=True)
class ControlPlane:
    """Where a sidecar discovers its configuration.

    `address` is a TCP address, where exactly the workload `identity` must answer by mTLS, or the
    path of a Unix socket, which is as safe as its folder and takes no identity.
    """

    address: Address | Path
    identity: WorkloadId | None = None

    def __post_init__(self) -> None:
        if isinstance(self.address, Address) == (self.identity is None):
            raise EnvoyConfigError(
                f"a control plane at {self.address} needs "
                + ("an identity to verify" if self.identity is None else "no identity")
            )


def compile_discovering(place: Place, control: ControlPlane) -> Configuration:
    """The configuration of an Envoy that discovers all but the way to the control plane.

    It belongs into `place.run`, with a link `state` to `place.state`: its paths are relative, as
    are those that it discovers. Raises `EnvoyConfigError` if a socket's path is too long.
    """
    _check_sockets(place)
    own = relative(place)
    resource = _bootstrap(own)
    resource.static_resources = bootstrap.BootstrapStaticResources(
        clusters=[clusters.control_plane(control.address, control.identity, own, folder(own))]
    )
    resource.dynamic_resources = bootstrap.BootstrapDynamicResources(
        ads_config=core.ApiConfigSource(
            api_type=core.ApiConfigSourceApiType.DELTA_GRPC,
            transport_api_version=core.ApiVersion.V3,
            grpc_services=[
                core.GrpcService(
                    envoy_grpc=core.GrpcServiceEnvoyGrpc(
                        cluster_name=clusters.CONTROL_PLANE,
                        retry_policy=core.RetryPolicy(
                            retry_back_off=core.BackoffStrategy(
                                base_interval=_FIRST_RECONNECT, max_interval=_LAST_RECONNECT
                            )
                        ),
                    )
                )
            ],
            set_node_on_first_message_only=True,
        ),
        # It is not ready before it has heard what it shall do, however long that takes.
        cds_config=from_ads(FOR_EVER),
        lds_config=from_ads(FOR_EVER),
    )
    return Configuration({BOOTSTRAP: text(resource), **tls.secrets(own.identity)})


def _check_sockets(place: Place) -> None:
    for socket in (
        place.app_socket,
        place.egress_socket,
        place.metrics_socket,
        place.admin_socket,
    ):
        if len(str(socket).encode()) > _LONGEST_SOCKET_PATH:
            raise EnvoyConfigError(
                f"{socket} is too long for a socket, which takes {_LONGEST_SOCKET_PATH} bytes: "
                "use a shorter folder, such as XDG_RUNTIME_DIR=/run/user/1000"
            )


def _bootstrap(place: Place) -> bootstrap.Bootstrap:
    return bootstrap.Bootstrap(
        node=core.Node(
            id=f"{place.region}/{place.workload}",
            cluster=place.workload,
            locality=core.Locality(region=place.region),
        ),
        admin=bootstrap.Admin(
            address=core.Address(pipe=core.Pipe(path=str(place.admin_socket), mode=0o600)),
            ignore_global_conn_limit=True,
        ),
        overload_manager=_few_connections(),
    )


def _few_connections() -> overload.OverloadManager:
    """One limit for all listeners but the own host's and those that have one of their own."""
    config = monitors.DownstreamConnectionsConfig(
        max_active_downstream_connections=MOST_CONNECTIONS
    )
    return overload.OverloadManager(
        resource_monitors=[
            overload.ResourceMonitor(
                name="envoy.resource_monitors.global_downstream_max_connections",
                typed_config=Packed(config),
            )
        ]
    )
