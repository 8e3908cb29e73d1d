"""What can go wrong with a mesh on this machine. Each message says what to do.

LocalError
 ├─ AlreadyUp        a supervisor runs for this state folder, or what shall start runs already
 ├─ NotRunning       what shall be killed does not run
 ├─ NotUp            none does
 ├─ NotReady         the machine lacks something: a port, disk, a short enough path
 ├─ StartFailed      a process did not become healthy
 ├─ BadRequest       the supervisor was asked for something that is not there
 └─ StopFailed       something still runs
"""

from __future__ import annotations


class LocalError(Exception):
    """A mesh on this machine cannot do what was asked."""


class AlreadyUp(LocalError):
    """A supervisor runs for this state folder, or what shall start runs already."""

    def __init__(self, message: str, pid: int | None = None) -> None:
        super().__init__(message)
        self.pid = pid


class NotRunning(LocalError):
    """What shall be killed does not run."""


class NotUp(LocalError):
    """No supervisor runs for this state folder."""


class NotReady(LocalError):
    """The machine lacks something that the mesh needs."""


class StartFailed(LocalError):
    """A process did not become healthy."""


class BadRequest(LocalError):
    """The supervisor was asked for something that is not there."""


class StopFailed(LocalError):
    """Something still runs after it was stopped."""
