"""Who gets no certificate any more: `revoked` in mesh.yaml, read anew whenever it changes."""

from __future__ import annotations

import structlog

from mesh.topology import Topology, TopologyError, load

_log = structlog.get_logger(__name__)


class Revocations:
    """Those of the mesh that a topology is of."""

    def __init__(self, topology: Topology) -> None:
        self._path = topology.path
        self._revoked = topology.revoked
        self._read = self._version()

    def has(self, uri: str) -> bool:
        """Whether this SPIFFE ID was revoked."""
        version = self._version()
        if version != self._read:
            try:
                self._revoked = load(self._path).revoked
            except TopologyError as error:
                # Nobody is let in again by a mistake in the file.
                _log.error(
                    "mesh.yaml cannot be read: revocations stay as they were", error=str(error)
                )
            self._read = version
        return uri in self._revoked

    def _version(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino, found.st_size
