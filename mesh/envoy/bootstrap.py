"""Contract × Topology × Place -> one Envoy's whole configuration.

Pure: the same inputs give the same bytes. Everything is static, so an Envoy starts and goes on
without anything else of the mesh.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
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
from mesh.envoy import clusters, listeners, routes, tls
from mesh.envoy.errors import EnvoyConfigError
from mesh.envoy.target import Target
from mesh.envoy.text import Packed, text
from mesh.place import EDGE, Place
from mesh.topology import Topology

BOOTSTRAP = "bootstrap.json"
MOST_CONNECTIONS = 8192
"""How many connections an Envoy takes from outside: who holds a certificate cannot use it up."""

_LONGEST_SOCKET_PATH = 107


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


def folder(place: Place) -> Path:
    """Where an Envoy's configuration lives."""
    return place.state / "envoy"


def compile_for(contract: Contract, topology: Topology, place: Place) -> Configuration:
    """The configuration of whatever stands at `place`: a workload's sidecar or an edge."""
    compiler = compile_edge if place.workload == EDGE else compile_sidecar
    return compiler(contract, topology, place)


def compile_sidecar(contract: Contract, topology: Topology, place: Place) -> Configuration:
    """The configuration of the Envoy beside a workload.

    Raises `EnvoyConfigError` if the topology has no such workload or a socket's path is too long.
    """
    if place.workload not in topology.workloads:
        raise EnvoyConfigError(
            f"no workload {place.workload!r} in {topology.path}: add it to `workloads`"
        )
    sds = folder(place)
    served = routes.inbound(contract, topology, place.region, place.workload)
    called = routes.egress(contract, topology, place.region, place.workload)
    open_ones = routes.enrolment(contract, place.workload)
    found = [
        listeners.inbound(
            topology.inbound(place.region, place.workload),
            place,
            sds,
            served.configuration(listeners.INBOUND),
            routes.served(contract, place.workload),
        ),
        listeners.egress(place, called.configuration(listeners.EGRESS), contract.methods()),
    ]
    if open_ones is not None:
        found.append(
            listeners.enrolment(
                topology.enrolment(place.region),
                place,
                sds,
                open_ones.configuration(listeners.ENROLMENT),
            )
        )
    own = [clusters.app(place), clusters.metrics(place)]
    return _configuration(topology, place, found, own, called.targets)


def compile_edge(contract: Contract, topology: Topology, place: Place) -> Configuration:
    """The configuration of a region's edge: its listener, and an egress for its agent alone.

    Raises `EnvoyConfigError` if a socket's path is too long.
    """
    taken = routes.edge(contract, topology)
    called = routes.egress(contract, topology, place.region, EDGE)
    found = [
        listeners.edge(
            topology.edge(place.region),
            place,
            folder(place),
            taken.configuration(listeners.EDGE),
            contract.methods(),
        ),
        listeners.egress(place, called.configuration(listeners.EGRESS), contract.methods()),
    ]
    return _configuration(topology, place, found, [], taken.targets | called.targets)


def _configuration(
    topology: Topology,
    place: Place,
    found: list[listener.Listener],
    own: list[cluster.Cluster],
    targets: Iterable[Target],
) -> Configuration:
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
    ways = [clusters.upstream_cluster(to, topology, place, folder(place)) for to in sorted(targets)]
    if place.otlp is not None:
        own = [*own, clusters.collector(place.otlp)]
    resource = bootstrap.Bootstrap(
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
        static_resources=bootstrap.BootstrapStaticResources(
            listeners=found, clusters=[*own, *ways]
        ),
    )
    return Configuration({BOOTSTRAP: text(resource), **tls.secrets(place.identity)})


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
