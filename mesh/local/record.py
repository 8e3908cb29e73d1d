"""`up.lock` and `up.json`: who runs this mesh, and which processes belong to it."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from mesh.local.errors import AlreadyUp
from mesh.local.layout import Layout


@dataclass(frozen=True)
class ProcessRecord:
    """One process of the mesh."""

    name: str
    """``eu/channels``, ``eu/channels/sidecar``, ``eu/edge`` or ``device/encoder-eu-1``."""
    kind: str
    """``workload``, ``sidecar`` or ``device``."""
    region: str
    pid: int | None
    log: str
    deaths: int = 0


@dataclass(frozen=True)
class Record:
    """What runs. Times in milliseconds since 1970."""

    pid: int
    phase: str
    """``starting``, ``up`` or ``stopping``."""
    mesh: str
    control: str
    started_ms: int
    healthy_ms: int | None = None
    processes: tuple[ProcessRecord, ...] = field(default=())

    def to_json(self) -> dict[str, object]:
        """As written to `up.json`."""
        return asdict(self)


def write(path: Path, record: Record) -> None:
    """Replaces the record as a whole, so that a reader never sees half of it."""
    draft = path.with_suffix(".json.new")
    draft.write_text(json.dumps(record.to_json(), indent=1) + "\n")
    draft.replace(path)


def read(path: Path) -> Record | None:
    """The record, or None if there is none that can be read."""
    try:
        values = json.loads(path.read_text())
        processes = tuple(ProcessRecord(**each) for each in values.pop("processes"))
        return Record(**values, processes=processes)
    except (OSError, ValueError, TypeError, KeyError):
        return None


@contextmanager
def locked(layout: Layout) -> Iterator[None]:
    """Holds `up.lock`. Raises `AlreadyUp` if another supervisor does.

    The kernel drops the lock with the process, so a supervisor that was killed leaves none behind.
    """
    descriptor = os.open(layout.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = holder(layout)
            raise AlreadyUp(
                f"this mesh is up already (pid {pid or 'unknown'}): see it with `isthmus status`, "
                "stop it with `isthmus down`",
                pid,
            ) from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(descriptor)


def running(layout: Layout) -> bool:
    """Whether a supervisor holds the lock."""
    try:
        descriptor = os.open(layout.lock, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def holder(layout: Layout) -> int | None:
    """The pid in the lock file; meaningful only while `running`."""
    try:
        return int(layout.lock.read_text())
    except (OSError, ValueError):
        return None
