"""Exit codes, and errors that a command ends with. Imports nothing heavy."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """What the exit code of `isthmus` says."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    NOT_FOUND = 4
    REFUSED = 5
    CONFLICT = 6
    NOT_READY = 7
    INTERNAL = 70
    INTERRUPTED = 130


MEANINGS = {
    Exit.OK: "It is done; what was asked holds.",
    Exit.FAILED: "It failed, or the answer is no: something is unhealthy, a step did not hold.",
    Exit.USAGE: "The command line, `mesh.yaml` or a value in the request is wrong.",
    Exit.UNREACHABLE: "The mesh is not up, or no edge of it answers in time.",
    Exit.NOT_FOUND: "The thing named does not exist.",
    Exit.REFUSED: "The contract does not allow the caller to do that.",
    Exit.CONFLICT: "It exists already, or its present state does not allow that.",
    Exit.NOT_READY: "This machine lacks something: a free port, disk space, a tool.",
    Exit.INTERNAL: "A fault of Isthmus itself; please report it.",
    Exit.INTERRUPTED: "Ctrl-C, or told to stop, before it was done.",
}


class CommandError(Exception):
    """Ends a command with a message and a code."""

    def __init__(self, message: str, code: Exit = Exit.FAILED) -> None:
        super().__init__(message)
        self.code = code
