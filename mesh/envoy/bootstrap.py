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
from envoy_data_plane.envoy.extensions.resource_monitors.fixed_heap import v3 as fixed_heap

from mesh.contracts.exceptions import CONTROL
from mesh.contracts.model import Contract
from mesh.envoy import clusters
from mesh.envoy.discovery import FOR_EVER, from_ads, relative
from mesh.envoy.errors import EnvoyConfigError
from mesh.envoy.parts import as_they_are, folder, parts
from mesh.envoy.text import Packed, text
from mesh.identity.spiffe import WorkloadId
from mesh.place import EDGE, VERSION_HEADER, Place
from mesh.topology import Address, Topology

BOOTSTRAP = "bootstrap.json"
MOST_CONNECTIONS = 8192
"""How many connections an Envoy takes from outside: who holds a certificate cannot use it up."""

EDGE_HEAP = 1024 * 1024 * 1024
"""How many bytes an edge may hold. At rest it has some 20 MB; this is for its clients' buffers."""
_HEAP = "envoy.resource_monitors.fixed_heap"
_LONGEST_SOCKET_PATH = 107
_FIRST_RECONNECT = timedelta(milliseconds=200)
_LAST_RECONNECT = timedelta(seconds=5)


@dataclass(frozen=True)
class Configuration:
    """What one Envoy starts from: the text of `bootstrap.json`.

    It belongs in `folder(place)`, beside what `write_credentials` writes there.
    """

    bootstrap: str

    def write(self, into: Path) -> Path:
        """Writes the bootstrap and returns its path."""
        into.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = into / BOOTSTRAP
        path.write_text(self.bootstrap)
        return path


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
    return Configuration(text(resource))


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


def control_plane_of(topology: Topology, region: str) -> ControlPlane:
    """The control plane of a region that has one."""
    identity = WorkloadId(topology.trust_domain, region, CONTROL)
    return ControlPlane(topology.inbound(region, CONTROL), identity)


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
                    ),
                    initial_metadata=(
                        [core.HeaderValue(key=VERSION_HEADER, value=place.version)]
                        if place.version
                        else []
                    ),
                )
            ],
            set_node_on_first_message_only=True,
        ),
        # It is not ready before it has heard what it shall do, however long that takes.
        cds_config=from_ads(FOR_EVER),
        lds_config=from_ads(FOR_EVER),
    )
    return Configuration(text(resource))


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
            id=f"{place.region}/{place.instance}",
            cluster=place.workload,
            locality=core.Locality(region=place.region),
        ),
        admin=bootstrap.Admin(
            address=core.Address(pipe=core.Pipe(path=str(place.admin_socket), mode=0o600)),
            ignore_global_conn_limit=True,
        ),
        # What is set by the admin interface, such as `mesh.envoy.hold.KEY`, holds until it ends.
        layered_runtime=bootstrap.LayeredRuntime(
            layers=[
                bootstrap.RuntimeLayer(name="admin", admin_layer=bootstrap.RuntimeLayerAdminLayer())
            ]
        ),
        overload_manager=_bounded(place),
    )


def _bounded(place: Place) -> overload.OverloadManager:
    """One limit for all listeners but the own host's and those that have one of their own.

    An edge has a limit of memory as well: near to it, those that hold most of it are cut, and at
    last nothing new is taken, instead of everything ending with the process.
    """
    config = monitors.DownstreamConnectionsConfig(
        max_active_downstream_connections=MOST_CONNECTIONS
    )
    manager = overload.OverloadManager(
        resource_monitors=[
            overload.ResourceMonitor(
                name="envoy.resource_monitors.global_downstream_max_connections",
                typed_config=Packed(config),
            )
        ]
    )
    if place.workload == EDGE:
        heap = fixed_heap.FixedHeapConfig(max_heap_size_bytes=EDGE_HEAP)
        manager.refresh_interval = timedelta(milliseconds=250)
        manager.resource_monitors.append(
            overload.ResourceMonitor(name=_HEAP, typed_config=Packed(heap))
        )
        manager.actions = [
            _above("envoy.overload_actions.shrink_heap", 0.85),
            overload.OverloadAction(
                name="envoy.overload_actions.reset_high_memory_stream",
                triggers=[
                    overload.Trigger(
                        name=_HEAP,
                        scaled=overload.ScaledTrigger(
                            scaling_threshold=0.9, saturation_threshold=0.98
                        ),
                    )
                ],
            ),
            _above("envoy.overload_actions.stop_accepting_requests", 0.95),
        ]
        manager.buffer_factory_config = overload.BufferFactoryConfig(
            minimum_account_to_track_power_of_two=20
        )
    return manager


def _above(action: str, part: float) -> overload.OverloadAction:
    return overload.OverloadAction(
        name=action,
        triggers=[overload.Trigger(name=_HEAP, threshold=overload.ThresholdTrigger(value=part))],
    )
