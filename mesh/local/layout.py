"""Where a mesh on this machine keeps its state and its sockets: see `Layout`."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from mesh.local.errors import NotReady
from mesh.place import Place, workload_and_version
from mesh.topology import Topology

LONGEST_SOCKET_PATH = 107
"""`sockaddr_un` holds 108 bytes, the final zero included."""

_LONGEST_SOCKET_NAME = "metrics.sock"


@dataclass(frozen=True)
class Layout:
    """State is `.isthmus/` beside `mesh.yaml`; sockets are in a short folder of mode 0700."""

    topology: Topology
    state: Path
    run: Path

    @classmethod
    def of(cls, topology: Topology) -> Layout:
        """The layout of the mesh that `mesh.yaml` describes; touches nothing."""
        state = topology.path.parent / ".isthmus"
        runtime = os.environ.get("XDG_RUNTIME_DIR")
        base = Path(runtime) / "isthmus" if runtime else Path(f"/tmp/isthmus-{os.getuid()}")  # noqa: S108  its owner and mode are checked
        return cls(topology, state, base / hashlib.sha256(str(state).encode()).hexdigest()[:8])

    @property
    def root(self) -> Path:
        """The root's key and certificate."""
        return self.state / "root"

    @property
    def operator(self) -> Path:
        """The operator's key and certificate chain."""
        return self.state / "operator"

    @property
    def origin(self) -> Path:
        """Published streams: `<channel>/live.m3u8` and its segments."""
        return self.state / "origin"

    @property
    def lock(self) -> Path:
        """Held by the supervisor; holds its pid."""
        return self.state / "up.lock"

    @property
    def record(self) -> Path:
        """What runs, as JSON; see `mesh.local.record`."""
        return self.state / "up.json"

    @property
    def log(self) -> Path:
        """What a detached supervisor prints."""
        return self.state / "up.log"

    @property
    def control(self) -> Path:
        """The supervisor's control socket."""
        return self.run / "control.sock"

    def place(self, region: str, instance: str) -> Place:
        """Where a workload, another version of it, or the edge, of a region lives."""
        workload, version = workload_and_version(instance)
        return Place(
            region=region,
            workload=workload,
            topology=self.topology.path,
            run=self.run / region / instance,
            state=self.state / region / instance,
            otlp=self.topology.otlp,
            version=version,
        )

    def device(self, device_id: str) -> Path:
        """What a device keeps."""
        return self.state / "devices" / device_id

    def check_socket_paths(self) -> None:
        """Raises `NotReady` if a socket's path would be too long for the kernel."""
        for region in self.topology.region_names:
            for instance in self.topology.instances(region):
                path = self.run / region / instance / _LONGEST_SOCKET_NAME
                if len(os.fsencode(path)) > LONGEST_SOCKET_PATH:
                    raise NotReady(
                        f"{path} is longer than the {LONGEST_SOCKET_PATH} bytes of a Unix socket's "
                        "path: set XDG_RUNTIME_DIR to a shorter folder, or unset it"
                    )

    def prepare(self) -> None:
        """Creates the folders, private to this user. Raises `NotReady` if another owns them."""
        try:
            for folder in (self.state, self.run.parent, self.run):
                private_folder(folder)
                _require_private(folder)
            self.origin.mkdir(mode=0o755, exist_ok=True)
        except OSError as error:
            raise NotReady(
                f"cannot create {error.filename}: {error.strerror}. The state is kept beside "
                f"{self.topology.path}, the sockets in {self.run}; both must be writable"
            ) from None


def private_folder(folder: Path) -> None:
    """Creates a folder and what is missing above it, all of mode 0700."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for each in reversed(missing):
        each.mkdir(mode=0o700, exist_ok=True)


def _require_private(folder: Path) -> None:
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise NotReady(
            f"{folder} is not a folder of this user's: remove it, or set XDG_RUNTIME_DIR to a "
            "folder of your own"
        )
    if stat.S_IMODE(status.st_mode) != 0o700:
        folder.chmod(0o700)
