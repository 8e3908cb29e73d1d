"""What must hold on this machine before a mesh starts: ports, disk, tools, paths."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from mesh.local.errors import NotReady
from mesh.local.layout import Layout
from mesh.local.ports import for_outgoing, holder, is_free
from mesh.place import EDGE
from mesh.topology import Address, Topology

DISK_NEEDED = 512 << 20
"""Bytes: journals, logs and the segments of a few channels."""

WATCHES_PER_SIDECAR = 2
"""inotify instances: Envoy takes two for a certificate that rotates."""


def check_machine(layout: Layout, disk_needed: int = DISK_NEEDED) -> None:
    """Raises `NotReady` naming the first thing that is missing and what to do."""
    _check_tools()
    layout.check_socket_paths()
    check_disk(layout.state, disk_needed)
    check_ports(layout.topology)
    topology = layout.topology
    check_watches(
        WATCHES_PER_SIDECAR * sum(map(len, map(topology.instances, topology.region_names)))
    )


def check_watches(needed: int) -> None:
    """Raises `NotReady` unless this user may have `needed` more inotify instances.

    They are taken and given back, as no file says how many are in use. An Envoy that gets none
    aborts without a word.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    taken: list[int] = []
    try:
        for _ in range(needed):
            descriptor = libc.inotify_init1(os.O_CLOEXEC)
            if descriptor < 0:
                reason = os.strerror(ctypes.get_errno())
                raise NotReady(
                    f"the sidecars need {needed} inotify instances, and this user gets only "
                    f"{len(taken)} more ({reason}): stop another mesh, or run "
                    "`sudo sysctl fs.inotify.max_user_instances=512`"
                )
            taken.append(descriptor)
    finally:
        for descriptor in taken:
            os.close(descriptor)


def check_disk(folder: Path, needed: int) -> None:
    """Raises `NotReady` unless `needed` bytes are free there and a file can be written and synced.

    The write is tried, as quotas and limits do not show in the count of free blocks.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise NotReady(
            f"{folder}: {free >> 20} MiB are free and a mesh needs {needed >> 20} MiB: "
            "free some disk space, or move mesh.yaml to another disk"
        )
    probe = folder / ".space"
    try:
        with probe.open("wb") as file:
            file.write(bytes(1 << 20))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS):
            raise
        raise NotReady(
            f"{folder} takes no more data ({os.strerror(error.errno)}): free some disk space, or "
            "move mesh.yaml to another disk"
        ) from None
    finally:
        probe.unlink(missing_ok=True)


def check_ports(topology: Topology) -> None:
    """Raises `NotReady` naming a taken port, who has it, and the key in mesh.yaml to change."""
    for address, purpose, key in addresses(topology):
        try:
            free = is_free(address)
        except OSError as error:
            raise NotReady(
                f"{address} ({purpose}) cannot be used: {error.strerror}. "
                f"Change {key} in {topology.path}"
            ) from None
        if not free:
            raise NotReady(_taken(address, purpose, f"{key} in {topology.path}"))


def _taken(address: Address, purpose: str, key: str) -> str:
    who = holder(address.port)
    outgoing = for_outgoing(address.port)
    if who is None and outgoing is not None:
        return (
            f"{address} ({purpose}) is taken by an outgoing connection, for which this machine "
            f"uses the ports {outgoing[0]} to {outgoing[-1]}: change {key} to one outside of them"
        )
    return f"{address} ({purpose}) is taken by {who or 'another process'}: stop it, or change {key}"


def addresses(topology: Topology) -> Iterator[tuple[Address, str, str]]:
    """Every address that a mesh binds, with its purpose and its key in mesh.yaml."""
    for index, region in enumerate(topology.regions):
        key = f"regions[{index}].base_port"
        name = region.name
        yield topology.edge(name), f"the edge of {name}", key
        yield topology.enrolment(name), f"enrolment in {name}", key
        for workload in topology.workloads:
            yield topology.inbound(name, workload), f"{workload} in {name}", key
        for peer in topology.region_names:
            if peer != name:
                for workload in (EDGE, *topology.workloads):
                    at = topology.route(name, peer, workload)
                    yield at, f"the way from {name} to {workload} in {peer}", key
    for index, version in enumerate(topology.traffic.versions):
        at = Address(version.host, version.port)
        key = f"traffic.versions[{index}].address"
        yield at, f"{version.instance} in {version.region}", key
    yield topology.origin, "the media origin", "media.origin"


def _check_tools() -> None:
    if shutil.which("setpriv") is None:
        raise NotReady("setpriv is missing: apt-get install util-linux")
