"""Where one instance of a workload lives: its region, folders and sockets.

The agent lays the folders out, the sidecar's configuration names them, and the workload's process
learns them from its environment.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

EDGE = "edge"
"""The name, as a workload, of a region's edge."""

PLATFORM = ("authority", "control")
"""Workloads of the mesh itself. Their sidecars start from files, so that nobody waits in a circle,
and no deploy can cut the way to its own rollback."""


VERSION_HEADER = "x-isthmus-version"
"""By which another version of a workload tells its control plane which one it is. It is that
workload by its certificate, and so nobody but one of its versions can say this."""

_VERSION = "@"


def instance_name(workload: str, version: str) -> str:
    """What an instance is called within its region: ``overview``, or ``overview@next``."""
    return f"{workload}{_VERSION}{version}" if version else workload


def workload_and_version(instance: str) -> tuple[str, str]:
    """The other way round; the version is empty for the workload itself."""
    workload, _, version = instance.partition(_VERSION)
    return workload, version


class PlaceError(Exception):
    """The environment does not say where this process lives."""


@dataclass(frozen=True)
class Place:
    """One instance of a workload in one region.

    `run` is a folder of mode 0700 with a short path, for sockets: a socket's path holds 107
    characters at most. `state` is what survives a restart.
    """

    region: str
    workload: str
    topology: Path
    run: Path
    state: Path
    otlp: str | None = None
    version: str = ""
    """Which of the workload's versions it is; empty for the one that is there without any."""

    @property
    def instance(self) -> str:
        """What it is called within its region."""
        return instance_name(self.workload, self.version)

    @property
    def app_socket(self) -> Path:
        """Where the service listens; only its own sidecar connects."""
        return self.run / "app.sock"

    @property
    def egress_socket(self) -> Path:
        """Where the sidecar takes the service's outgoing calls, in plaintext HTTP/2."""
        return self.run / "egress.sock"

    @property
    def metrics_socket(self) -> Path:
        """Where the service serves Prometheus metrics over HTTP/1."""
        return self.run / "metrics.sock"

    @property
    def admin_socket(self) -> Path:
        """The sidecar's admin interface."""
        return self.run / "admin.sock"

    @property
    def identity(self) -> Path:
        """Certificate, key and roots: `tls.crt`, `tls.key`, `trust.crt`, links into `..data`."""
        return self.state / "identity"

    @property
    def data(self) -> Path:
        """What the workload keeps: journals, stores, tokens."""
        return self.state / "data"

    @property
    def logs(self) -> Path:
        """What the instance's processes print."""
        return self.state / "logs"

    def environment(self) -> dict[str, str]:
        """The variables that tell a process about its place."""
        variables = {
            "ISTHMUS_REGION": self.region,
            "ISTHMUS_WORKLOAD": self.workload,
            "ISTHMUS_TOPOLOGY": str(self.topology),
            "ISTHMUS_RUN_DIR": str(self.run),
            "ISTHMUS_STATE_DIR": str(self.state),
        }
        if self.version:
            variables["ISTHMUS_VERSION"] = self.version
        if self.otlp:
            variables["ISTHMUS_OTLP"] = self.otlp
        return variables

    @classmethod
    def from_environment(cls, variables: Mapping[str, str] | None = None) -> Place:
        """The place that `environment` described. Raises `PlaceError` naming what is missing."""
        source = os.environ if variables is None else variables
        try:
            return cls(
                region=source["ISTHMUS_REGION"],
                workload=source["ISTHMUS_WORKLOAD"],
                topology=Path(source["ISTHMUS_TOPOLOGY"]),
                run=Path(source["ISTHMUS_RUN_DIR"]),
                state=Path(source["ISTHMUS_STATE_DIR"]),
                otlp=source.get("ISTHMUS_OTLP") or None,
                version=source.get("ISTHMUS_VERSION", ""),
            )
        except KeyError as error:
            raise PlaceError(
                f"{error.args[0]} is not set: workloads are started by `isthmus up`"
            ) from None
