"""Counts calls by what a sidecar's access log says of them: by method, and whether they failed."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from mesh.agent.tail import LogTail

OTHER = "/other"
"""Where calls of methods count that the contract does not know: a caller cannot add names."""

_MOST_BYTES = 4 << 20
"""What is read at once: who writes more is counted by the last of it."""

# By no fault of what was asked for, in Envoy's spelling of gRPC's codes.
_FAILURES = frozenset(
    {
        "Unknown",
        "DeadlineExceeded",
        "PermissionDenied",
        "ResourceExhausted",
        "Unimplemented",
        "Internal",
        "Unavailable",
        "DataLoss",
        "Unauthenticated",
    }
)
_BEGUN_MS = 1000


@dataclass
class Tally:
    """Calls that ended, and those that failed."""

    calls: int = 0
    failures: int = 0


class CallCounter:
    """Counts what is appended to an access log from now on.

    `paths` are the contract's methods, `streams` those that stream. A stream that has lasted and
    ends is begun anew by its client; it has failed if it could not be begun.
    """

    def __init__(self, log: Path, paths: Collection[str], streams: Collection[str]) -> None:
        self._tail = LogTail(log, _MOST_BYTES)
        self._paths = frozenset(paths)
        self._streams = frozenset(streams)
        self.tallies: dict[str, Tally] = {}

    def read(self) -> None:
        """Counts what has come."""
        self._count(self._tail.read())

    def _count(self, lines: Iterable[bytes]) -> None:
        for line in lines:
            try:
                entry = json.loads(line)
                path = entry["path"]
            except (ValueError, TypeError, KeyError):
                continue  # half a line, or none of Envoy's
            tally = self.tallies.setdefault(path if path in self._paths else OTHER, Tally())
            tally.calls += 1
            tally.failures += self._failed(entry, path)

    def _failed(self, entry: dict[str, object], path: str) -> bool:
        code = entry.get("grpc_status")
        if code is None or code == "-":
            status = entry.get("status")
            return isinstance(status, int) and (status >= 500 or status in (401, 403, 429))
        if path in self._streams:
            lasted = entry.get("duration_ms")
            if isinstance(lasted, int) and lasted >= _BEGUN_MS:
                return False
        return code in _FAILURES
