"""Ports of this machine: which are free, who holds one, and blocks of them for a mesh of its own.

A block for a demonstration or a test is claimed below the kernel's range for outgoing connections,
by an exclusive lock on a file named after its first port: two that start at once take two blocks.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mesh.topology import PORTS_PER_REGION, Address

_FIRST, _LAST = 22_000, 32_000
_OUTGOING = Path("/proc/sys/net/ipv4/ip_local_port_range")


class NoFreePorts(Exception):
    """This machine has no block of free ports left."""


@dataclass
class Claim:
    """Blocks of `PORTS_PER_REGION` ports, this process's own until `release` or its end."""

    bases: tuple[int, ...]
    _locks: list[int]

    def release(self) -> None:
        """Gives the blocks back."""
        for descriptor in self._locks:
            os.close(descriptor)
        self._locks.clear()


def claim_blocks(count: int) -> Claim:
    """Claims `count` free blocks. Raises `NoFreePorts`."""
    bases: list[int] = []
    locks: list[int] = []
    for base in _bases():
        if len(bases) == count:
            break
        lock = _lock(base)
        if lock is None:
            continue
        if all(is_free(Address("127.0.0.1", base + i)) for i in range(PORTS_PER_REGION)):
            bases.append(base)
            locks.append(lock)
        else:
            os.close(lock)
    if len(bases) < count:
        for lock in locks:
            os.close(lock)
        raise NoFreePorts(
            f"no {count} free blocks of {PORTS_PER_REGION} ports from {_FIRST} to {_LAST}: "
            "stop another mesh first"
        )
    return Claim(tuple(bases), locks)


def is_free(address: Address) -> bool:
    """Whether a listener could bind the address now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As asyncio and Envoy do: connections that wait out their last minute are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address.host, address.port))
            probe.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise
    return True


def for_outgoing(port: int) -> range | None:
    """The ports that the kernel gives to outgoing connections, if the port is one of them."""
    try:
        first, last = map(int, _OUTGOING.read_text().split())
    except (OSError, ValueError):
        return None
    ports = range(first, last + 1)
    return ports if port in ports else None


def holder(port: int) -> str | None:
    """Who listens on a TCP port, such as ``python (pid 4711)``; None if /proc does not tell."""
    inodes = set(_listening_inodes(port))
    if not inodes:
        return None
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for process in Path("/proc").glob("[0-9]*"):
        with _vanishing():
            for descriptor in (process / "fd").iterdir():
                with _vanishing():
                    if str(descriptor.readlink()) in wanted:
                        name = (process / "comm").read_text().strip()
                        return f"{name} (pid {process.name})"
    return None


def _listening_inodes(port: int) -> Iterator[str]:
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            columns = line.split()
            local, state, inode = columns[1], columns[3], columns[9]
            if state == "0A" and int(local.rpartition(":")[2], 16) == port:
                yield inode


@contextmanager
def _vanishing() -> Iterator[None]:
    """Processes and descriptors end while one looks at them, and others' are not to be seen."""
    try:
        yield
    except OSError:
        pass


def _bases() -> Iterator[int]:
    # Processes begin at different places, so that they seldom probe each other's blocks.
    blocks = range(_FIRST, _LAST, PORTS_PER_REGION)
    start = os.getpid() * 7 % len(blocks)
    yield from blocks[start:]
    yield from blocks[:start]


def _lock(base: int) -> int | None:
    folder = Path(tempfile.gettempdir()) / f"isthmus-ports-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(folder / str(base), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
