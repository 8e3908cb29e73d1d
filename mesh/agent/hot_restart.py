"""What one Envoy hands its successor over: the listening sockets, so that no connection is refused.

Envoy's own protocol. The two talk over sockets in the sidecar's folder, which is its user's alone,
and share a few bytes of memory in `/dev/shm`. Its name is drawn anew for each line of Envoys: a
name that is known beforehand could be taken by any user of the host. Envoy never removes it.

https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/operations/hot_restart
"""

from __future__ import annotations

import math
import subprocess
from contextlib import suppress
from pathlib import Path
from subprocess import PIPE, STDOUT

from mesh.contracts.model import Contract
from mesh.envoy import binary, listeners

_MEMORY = Path("/dev/shm")  # noqa: S108  where glibc keeps POSIX shared memory
_BASE_ID = "base-id"
_SOCKETS = "hot"
_MARGIN = 2
_SHARES = 10
"""Envoy leaves as many names for each base id."""


class HotRestart:
    """A line of Envoys that follow each other in one sidecar's folder, `run`."""

    def __init__(self, run: Path, contract: Contract) -> None:
        self._run = run
        self.next_epoch = 0
        """How many there have been."""
        self.within = handed_over_within(contract)
        """Seconds for which an Envoy lives on after another has taken over."""

    def options(self) -> list[str]:
        """For the Envoy that comes next. It has to run in the folder `run`."""
        base_id = (
            ("--base-id", (self._run / _BASE_ID).read_text())
            if self.next_epoch
            else ("--use-dynamic-base-id", "--base-id-path", _BASE_ID)
        )
        return [
            *base_id,
            *("--restart-epoch", str(self.next_epoch)),
            *("--socket-path", _SOCKETS),
            *("--socket-mode", "600"),
            *("--parent-shutdown-time-s", str(self.within)),
        ]

    def took_over(self) -> None:
        """The one that came next is there."""
        self.next_epoch += 1

    def clear(self) -> None:
        """Removes what is left of a line that has ended, or was cut off; the next one is another's.

        To be called before its first Envoy, and after its last.
        """
        self.next_epoch = 0
        file = self._run / _BASE_ID
        try:
            base_id = int(file.read_text())
        except (FileNotFoundError, ValueError):
            pass  # there was none, or it was cut off before it had a name
        else:
            with suppress(FileNotFoundError, PermissionError):  # gone, or by now another user's
                (_MEMORY / f"envoy_shared_memory_{base_id * _SHARES}").unlink()
        file.unlink(missing_ok=True)
        for socket in self._run.glob(f"{_SOCKETS}_*"):
            socket.unlink()


def handed_over_within(contract: Contract) -> int:
    """Seconds after which nothing is lost with an Envoy that another has taken over from.

    Each call is answered by then. Connections were told to end with their next answer; those that
    had none were idle, and have been closed for that, in the orderly way.
    """
    unary = [method.timeout or 0 for method in contract.methods() if not method.streaming]
    closed = (listeners.IDLE + listeners.GOODBYE).total_seconds()
    return math.ceil(max([closed, *unary])) + _MARGIN


def version() -> str:
    """What the installed Envoy can take over from: one that says the same of itself."""
    asked = [str(binary.envoy_binary()), "--hot-restart-version"]
    # It answers on stderr.
    done = subprocess.run(asked, stdout=PIPE, stderr=STDOUT, text=True, check=True)
    return done.stdout.strip()
