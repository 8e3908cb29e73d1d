"""A region's issuing certificate, as its file has it now: it is replaced while the authority runs.

What the former one signed stays good, since a chain brings its issuer along; each holder comes to
the new one as it renews.
"""

from __future__ import annotations

from pathlib import Path

import structlog

from mesh.authority import keep
from mesh.identity.authority import Issuer

_log = structlog.get_logger(__name__)


class Issuing:
    """Reads a file again once it is another one."""

    def __init__(self, path: Path, issuer: Issuer) -> None:
        self._path = path
        self._issuer = issuer
        self._version = _version(path)

    def current(self) -> Issuer:
        """The issuer that signs from now on."""
        version = _version(self._path)
        if version not in (None, self._version):
            try:
                fresh = keep.load(self._path)
            except keep.AuthorityDamaged as error:
                _log.error("goes on with the former issuing certificate", error=str(error))
            else:
                if fresh is not None and fresh.root not in (
                    self._issuer.root,
                    *self._issuer.others,
                ):
                    # Nobody trusts it: a root is announced before anything is signed below it.
                    _log.error("another root needs another start: goes on with the former one")
                elif fresh is not None:
                    self._issuer = fresh
                    end = fresh.certificate.not_valid_after_utc
                    _log.info("a new issuing certificate", not_after=end.isoformat())
            self._version = version
        return self._issuer


def _version(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino
